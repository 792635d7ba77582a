"""An orchestrator that asks for keys: the page asks too, and keeps the key no longer than it was told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.playground.browser import Browser, expect, visit
from tests.playground.serving import Served, tokenizer
from tests.playground.steps import link, run_to_the_end
from tests.security.serving import KeyRing, orchestrator

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = ("status of 401",)
SETTINGS = {"mode": "text", "prompt": "x", "max_tokens": 20}
STORED = "() => JSON.stringify([Object.entries(sessionStorage), Object.entries(localStorage), document.cookie])"


async def test_the_page_asks_for_a_key_and_forgets_it_with_the_page(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path)
    key = ring.add("alice")
    async with orchestrator(served.services, tokenizer=tokenizer(), api_keys=ring.file) as faces:
        url = f"{faces.http_server.url}/"
        async with visit(browser, link(url, "off", "adasd exact", **SETTINGS), tolerated=REFUSED) as page:
            form = page.locator("#access")
            await expect(form).to_contain_text("This service asks for an API key")
            await expect(page.locator("#banner")).to_be_hidden()
            await page.get_by_label("API key").fill("tdm_wrong")
            await page.get_by_role("button", name="Use this key").click()
            await expect(form).to_contain_text("is not known")
            await page.get_by_label("API key").fill(key)
            await page.keyboard.press("Enter")
            await expect(form).to_be_hidden()
            await expect(page.locator("#served")).to_contain_text("tiny")
            await run_to_the_end(page)
            await expect(page.locator('.lane[data-state="done"]')).to_have_count(2)
            assert key not in page.url and key not in await page.evaluate(STORED)
            assert await page.get_by_label("API key").input_value() == ""
            await page.reload()
            await expect(form).to_be_visible()


async def test_a_key_is_kept_for_the_tab_only_if_that_was_asked_for(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path)
    key = ring.add("alice")
    async with orchestrator(served.services, tokenizer=tokenizer(), api_keys=ring.file) as faces:
        url = f"{faces.http_server.url}/"
        async with visit(browser, link(url, "off", **SETTINGS), tolerated=REFUSED) as page:
            await page.get_by_label("API key").fill(key)
            await page.get_by_label("Keep it until this tab is closed").check()
            await page.get_by_role("button", name="Use this key").click()
            await expect(page.locator("#served")).to_contain_text("tiny")
            await page.reload()
            await expect(page.locator("#served")).to_contain_text("tiny")
            await expect(page.locator("#access")).to_be_hidden()
            # A key that is refused later is asked for where the run says so, and a new one takes its place.
            ring.remove("alice")
            await page.keyboard.press("Control+Enter")
            await expect(page.locator('.lane[data-state="failed"]')).to_have_count(1)
            await expect(page.locator("#access")).to_contain_text("is not known")
