"""A run on the page: what it shows is what the service said, lane by lane, to the token."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tandem.v1 import completion_pb2, policy_pb2
from tests.playground.browser import Browser, Page, expect, visit
from tests.playground.serving import Served
from tests.playground.steps import link, report, run_to_the_end, texts
from tests.support.trio import OFF, policy

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {"mode": "text", "prompt": "x", "temperature": 0.9, "seed": 11, "max_tokens": 80}
NAMES = {
    completion_pb2.TOKEN_SOURCE_TARGET: "target",
    completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED: "matched",
    completion_pb2.TOKEN_SOURCE_DRAFT_ACCEPTED: "through",
    completion_pb2.TOKEN_SOURCE_CORRECTION: "correction",
    completion_pb2.TOKEN_SOURCE_BONUS: "bonus",
}


async def same_by_grpc(
    served: Served, speculation: policy_pb2.SpeculationPolicy
) -> completion_pb2.CompleteOnceResponse:
    request = completion_pb2.CompleteRequest(
        text="x", max_tokens=80, sampling={"temperature": 0.9, "seed": 11}, speculation=speculation, audit=True
    )
    return await served.services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))


async def test_three_lanes_show_the_text_of_grpc_and_the_source_of_every_token(
    served: Served, browser: Browser
) -> None:
    policies = {
        "off": OFF,
        "fixed coupled max_tokens=4": policy("fixed", "coupled", max_tokens=4),
        "adasd adasd": policy("adasd", "adasd"),
    }
    async with visit(browser, link(served.url, *policies, **SETTINGS)) as page:
        await run_to_the_end(page)
        shown = await texts(page)
        for index, speculation in enumerate(policies.values()):
            found = await same_by_grpc(served, speculation)
            lane = page.locator(".lane").nth(index)
            assert shown[index] == found.text
            spans = lane.locator(".text .token")
            sources = await spans.evaluate_all("all => all.map(span => span.dataset.source)")
            assert sources == [NAMES[token.source] for token in found.tokens]
            lines, speculated = await report(page, index), found.finish.speculation
            assert lines["seed"] == "11" and lines["finish"] == "max tokens reached"
            if speculated.verify_steps:
                length = f"{speculated.mean_acceptance_length:.2f}"
                assert lines["verifications"] == f"{speculated.verify_steps}, mean acceptance length {length}"
                await expect(lane.locator("[data-metric=length]")).to_have_text(length)
                await expect(lane.locator("[data-metric=rate]")).to_have_text(
                    f"{speculated.draft_acceptance_rate * 100:.0f} %"
                )
            if index == 2:
                assert f"{speculated.lossy_tokens} token" in lines["lossy"] and "T_V" in lines["thresholds"]
                assert Counter(sources)["through"] == speculated.lossy_tokens > 0


async def test_text_and_figures_grow_while_the_run_goes_on(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "adasd exact", **{**SETTINGS, "max_tokens": 400})) as page:
        await page.click("#run")
        lengths, speeds = [0], set()
        while await page.locator('.lane[data-state="running"]').count():
            lengths.append(len((await texts(page))[0]))
            speeds.add(await page.locator("[data-metric=speed]").text_content())
            await page.wait_for_timeout(40)
        assert lengths == sorted(lengths) and len(set(lengths)) > 5 and len(speeds) > 3
        label = await page.locator("canvas.timeline").get_attribute("aria-label")
        assert label and "draft" in label and "verify" in label


async def test_coupled_lanes_are_said_to_be_identical_and_the_first_difference_is_marked(
    served: Served, browser: Browser
) -> None:
    lanes = ("off", "adasd coupled", "fixed coupled max_tokens=3")
    async with visit(browser, link(served.url, *lanes, **SETTINGS)) as page:
        await run_to_the_end(page)
        await expect(page.locator("#verdict b")).to_have_text("A = B = C")
        await expect(page.locator("#verdict")).to_have_attribute("data-kind", "same")
        said = page.locator("#verdict span")
        await expect(said).to_contain_text("All three texts are identical, token for token (80 tokens)")
        assert len(set(await texts(page))) == 1 and await page.locator(".differs").count() == 0

        await page.locator(".lane").nth(2).locator(".policy select").select_option("AdaSD v1")
        await run_to_the_end(page)
        await expect(page.locator("#verdict b")).to_have_text("A = B  ≠  C", use_inner_text=False)
        await expect(page.locator("#verdict span")).to_contain_text("A and B are identical, as promised")
        alone = (await same_by_grpc(served, OFF)).token_ids
        lossy = (await same_by_grpc(served, policy("adasd", "adasd"))).token_ids
        first = next(index for index, pair in enumerate(zip(alone, lossy, strict=True)) if pair[0] != pair[1])
        await expect(page.locator("#verdict span")).to_contain_text(f"C differs from A and B at token {first + 1}:")
        marked = await page.locator(".differs").evaluate_all("all => all.map(span => span.dataset.index)")
        assert marked == [str(first)] * 3


async def test_cancel_ends_the_work_of_the_engines_and_keeps_what_came(served: Served, browser: Browser) -> None:
    settings = {**SETTINGS, "max_tokens": 4000}
    async with visit(browser, link(served.url, "off", "adasd exact", "adasd adasd", **settings)) as page:
        for how in ("Escape", "click"):
            await page.click("#run")
            await expect(page.locator(".lane .text .token").nth(30)).to_be_attached()
            assert served.sequences > 0
            await (page.keyboard.press("Escape") if how == "Escape" else page.click("#cancel"))
            await expect(page.locator('.lane[data-state="cancelled"]')).to_have_count(3)
            async with asyncio.timeout(2):
                while served.sequences:
                    await asyncio.sleep(0.01)
            kept = await texts(page)
            await asyncio.sleep(0.2)
            assert await texts(page) == kept and any(kept)
            await expect(page.locator(".state").first).to_contain_text("Cancelled")
        await expect(page.locator("#served [data-name=load]")).to_contain_text("0 completions")


async def test_in_turn_no_two_lanes_run_at_once(served: Served, browser: Browser) -> None:
    settings = {**SETTINGS, "max_tokens": 100, "order": "turn"}
    async with visit(browser, link(served.url, "off", "adasd exact", "adasd coupled", **settings)) as page:
        await page.click("#run")
        seen: list[list[str]] = []
        while await page.locator('#cancel[aria-disabled="false"]').count():
            seen.append(await page.locator(".lane").evaluate_all("all => all.map(lane => lane.dataset.state)"))
            await page.wait_for_timeout(20)
        assert all(states.count("running") <= 1 for states in seen)
        assert ["done", "running", "waiting"] in seen
        await expect(page.locator('.lane[data-state="done"]')).to_have_count(3)


async def test_a_seed_that_is_not_given_is_drawn_once_for_all_lanes(served: Served, browser: Browser) -> None:
    settings = {**SETTINGS, "seed": "", "max_tokens": 20}
    async with visit(browser, link(served.url, "off", "adasd coupled", **settings)) as page:
        seeds = []
        for _ in range(2):
            await run_to_the_end(page)
            lanes = [await report(page, lane) for lane in (0, 1)]
            assert lanes[0]["seed"] == lanes[1]["seed"]
            seeds.append(lanes[0]["seed"])
            await expect(page.locator("#verdict b")).to_have_text("A = B")
        assert seeds[0] != seeds[1]


async def details(page: Page) -> dict[str, str]:
    box = page.locator("#details")
    await expect(box).to_be_visible()
    names = await box.locator("dt").all_text_contents()
    return dict(zip(names, await box.locator("dd").all_text_contents(), strict=True))


async def test_a_token_that_is_pointed_at_says_what_is_known_of_it(served: Served, browser: Browser) -> None:
    found = await same_by_grpc(served, policy("adasd", "adasd"))
    async with visit(browser, link(served.url, "adasd adasd", **SETTINGS)) as page:
        await run_to_the_end(page)
        spans = page.locator(".text .token")
        for source in ("matched", "through", "correction"):
            index = next(i for i, token in enumerate(found.tokens) if NAMES[token.source] == source)
            token = found.tokens[index]
            await spans.nth(index).hover()
            said = await details(page)
            assert said["token"] == f"{token.token_id}, number {index + 1}" and said["round"] == str(token.round)
            assert said["H(p)"].startswith(f"{token.target_entropy:.3f} nats")
            assert said["log p"].replace("−", "-").startswith(f"{token.target_log_probability:.2f} nats")
            if source == "correction":
                await expect(page.locator("#details")).to_contain_text(f"token {token.rejected_token_id}")
                assert "H(q)" not in said
            else:
                assert said["H(q)"] == f"{token.draft_entropy:.3f} nats"
                assert said["log q"].replace("−", "-").startswith(f"{token.draft_log_probability:.2f} nats")
                assert said["distance"] == f"{token.distance:.3f}"


async def test_rounds_and_candidates_are_told_one_by_one(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "fixed exact max_tokens=4", **SETTINGS)) as page:
        await run_to_the_end(page)
        await page.focus("canvas.timeline")
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#details")).to_contain_text("First token")
        await page.keyboard.press("ArrowRight")
        said = await details(page)
        assert said["drafted"] == "4" and 0 <= int(said["kept"]) <= 4 and said["whole"].endswith("ms")
        assert await page.locator(".text .token.together").count() == int(said["kept"]) + 1
        await page.focus("canvas.candidates")
        await page.keyboard.press("End")
        said = await details(page)
        assert said["H(q)"].endswith("nats") and 0 <= float(said["exact rule accepts with"]) <= 1
