"""What goes wrong is said where it belongs, and what came before is kept."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import pytest

from tests.playground.browser import Browser, expect, visit
from tests.playground.serving import Served, gateway, playground
from tests.playground.steps import link, run_to_the_end, texts

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = ("status of 400",)
SETTINGS = {"mode": "text", "prompt": "x", "max_tokens": 20}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperature", "-1", "must be finite and at least 0"),
        ("top_p", "1.5", "must lie in (0, 1]"),
        ("max_tokens", "0", "must be at least 1"),
        ("seed", "99999999999999999999", "range"),
        ("prompt", "", "is empty"),
    ],
)
async def test_a_field_that_the_service_refuses_says_so_beside_its_input(
    served: Served, browser: Browser, name: str, value: str, said: str
) -> None:
    settings = {**SETTINGS, "temperature": 0.5, name: value}
    async with visit(browser, link(served.url, "off", "adasd exact", **settings), tolerated=REFUSED) as page:
        await run_to_the_end(page)
        field = page.locator(f"#{name}")
        await expect(field).to_have_attribute("aria-invalid", "true")
        await expect(field).to_be_focused()
        refusals = page.locator(".refusal")
        await expect(refusals).to_have_count(1)
        await expect(refusals).to_contain_text(said)
        assert await field.get_attribute("aria-describedby") == await refusals.get_attribute("id")
        # It goes once the field is changed, and a run then ends well.
        await field.fill("1")
        await expect(refusals).to_have_count(0)
        await run_to_the_end(page)
        await expect(page.locator('.lane[data-state="done"]')).to_have_count(2)


@pytest.mark.parametrize(
    ("lane", "label", "said"),
    [
        ("adasd jsd", "Threshold, 0 to 1", "is needed"),
        ("adasd jsd threshold=7", "Threshold, 0 to 1", "must be in [0, 1]"),
        ("fixed exact max_tokens=65", "Most candidates", "must be in [1, 64]"),
        ("adaedl adasd gamma=0", "γ", "must be above 0"),
    ],
)
async def test_an_option_that_the_service_refuses_says_so_in_its_lane(
    served: Served, browser: Browser, lane: str, label: str, said: str
) -> None:
    async with visit(browser, link(served.url, "off", lane, **SETTINGS), tolerated=REFUSED) as page:
        await run_to_the_end(page)
        await expect(page.locator(".refusal")).to_have_count(1)
        faulty = page.locator(".lane").nth(1).get_by_label(label)
        await expect(faulty).to_be_visible()
        await expect(faulty).to_have_attribute("aria-invalid", "true")
        await expect(page.locator(".lane").nth(1).locator(".refusal")).to_contain_text(said)
        await expect(page.locator('.lane[data-state="done"]')).to_have_count(1)  # the other lane ran


@pytest.mark.parametrize(("name", "value"), [("temperature", "warm"), ("max_tokens", "1.5"), ("seed", "-3")])
async def test_what_is_no_number_is_not_sent(served: Served, browser: Browser, name: str, value: str) -> None:
    async with visit(browser, link(served.url, "off", **{**SETTINGS, name: value})) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        await page.click("#run")
        await expect(page.locator(f"#{name}")).to_be_focused()
        await expect(page.locator(".refusal")).to_contain_text("must be a")
        assert not any("complete" in url for url in asked)


async def test_a_service_that_is_not_there_is_a_banner_that_says_what_to_do(browser: Browser) -> None:
    async with playground() as served, AsyncExitStack() as standing:
        url = await standing.enter_async_context(gateway(served.services.target.address, None))
        async with visit(browser, link(url, "off", **SETTINGS), tolerated=("ERR_CONNECTION_REFUSED",)) as page:
            await expect(page.locator("#served")).to_contain_text("tiny")
            await expect(page.locator("#counted")).to_contain_text("1 token")  # nothing is under way any more
            await standing.aclose()
            await run_to_the_end(page)
            await expect(page.locator("#banner")).to_be_visible()
            await expect(page.locator("#banner")).to_contain_text("tandem up")
            await page.click("#retry")
            await expect(page.locator("#banner")).to_contain_text("No answer from")


async def test_a_target_that_is_not_there_is_named(browser: Browser) -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with (
            gateway(address, None) as url,
            visit(browser, link(url, "off", **SETTINGS), tolerated=("status of 503",)) as page,
        ):
            await expect(page.locator("#banner")).to_contain_text("--target", timeout=10_000)


async def test_a_stream_that_breaks_midway_keeps_what_came(browser: Browser) -> None:
    async with playground() as served:
        settings = {**SETTINGS, "max_tokens": 4000}
        async with visit(browser, link(served.url, "off", "adasd exact", **settings), tolerated=("503",)) as page:
            await page.click("#run")
            await expect(page.locator(".lane").nth(1).locator(".text .token").nth(40)).to_be_attached()
            served.services.target.grace_seconds = 0
            await served.services.target.drain()
            await expect(page.locator('.lane[data-state="failed"]')).to_have_count(2, timeout=15_000)
            for lane, text in enumerate(await texts(page)):
                assert len(text) > 20
                await expect(page.locator(".lane .state").nth(lane)).to_contain_text("What came is kept")
            await expect(page.locator("#run")).to_have_attribute("aria-disabled", "false")
