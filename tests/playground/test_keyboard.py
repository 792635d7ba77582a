"""Everything can be reached and done without a pointer, and the focus can be seen."""

from __future__ import annotations

import pytest

from tests.playground.browser import Browser, expect, visit
from tests.playground.serving import Served
from tests.playground.steps import link, texts

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {"mode": "text", "prompt": "x", "temperature": 0.9, "max_tokens": 40}
FOCUSED = """() => {
  const at = document.activeElement;
  const shown = at.matches('.switch input') ? at.nextElementSibling : at;
  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
  const lane = at.closest('.lane')?.querySelector('h2').textContent ?? '';
  const name = at.id && !at.id.startsWith('field-') ? at.id : (at.name || at.className || at.tagName.toLowerCase());
  return { name: `${lane}${lane && ' '}${name}`, seen: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1 };
}"""


async def test_tab_reaches_every_control_in_order_and_shows_where_it_is(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "off", "adasd exact", **SETTINGS)) as page:
        found = []
        while not found or found[-1] != "body":
            await page.keyboard.press("Tab")
            focused = await page.evaluate(FOCUSED)
            assert focused["seen"] or focused["name"] == "body", focused["name"]
            found.append(focused["name"])
            assert len(found) < 60
    assert found == [
        "skip", "theme", "mode", "prompt", "temperature", "top_p", "max_tokens", "seed", "order", "run", "cancel",
        "link", "add", "A policy-A", "A plain remove", "A text", "A timeline", "A candidates",
        "B policy-B", "B plain remove", "B summary", "B text", "B timeline", "B candidates", "body",
    ]  # fmt: skip


async def test_a_run_by_keyboard_alone(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "off", **{**SETTINGS, "prompt": ""})) as page:
        for _ in range(4):
            await page.keyboard.press("Tab")
        await page.keyboard.type("hello")
        for _ in range(9):
            await page.keyboard.press("Tab")
        assert (await page.evaluate(FOCUSED))["name"] == "add"
        await page.keyboard.press("Enter")  # a second lane, whose policy has the focus
        assert (await page.evaluate(FOCUSED))["name"] == "B policy-B"
        await page.keyboard.type("Coupled")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")  # opens the rules
        await page.keyboard.press("Tab")
        await page.keyboard.type("Fixed")
        rules = page.locator(".lane").nth(1).locator("summary")
        await expect(rules).to_have_text("stop Fixed length, accept Coupled")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator('.lane[data-state="done"]')).to_have_count(2, timeout=15_000)
        await expect(page.locator("#verdict b")).to_have_text("A = B")
        assert (await texts(page))[0] == (await texts(page))[1] != ""
        await expect(page.locator("#spoken")).to_contain_text("Lane A done, 40 tokens. Lane B done, 40 tokens.")


async def test_arrows_walk_through_the_tokens_and_escape_hides_what_they_say(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "adasd exact", **SETTINGS)) as page:
        await page.keyboard.press("Control+Enter")
        await expect(page.locator('.lane[data-state="done"]')).to_have_count(1, timeout=15_000)
        await page.focus(".text")
        for key, number in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 40), ("ArrowLeft", 39), ("Home", 1)):
            await page.keyboard.press(key)
            await expect(page.locator("#details")).to_contain_text(f"number {number}")
            current = await page.locator(".token.current").get_attribute("data-index")
            assert current == str(number - 1)
        await page.keyboard.press("Escape")
        await expect(page.locator("#details")).to_be_hidden()


async def test_escape_cancels_from_inside_a_field(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, "off", **{**SETTINGS, "max_tokens": 4000})) as page:
        await page.focus("#prompt")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".text .token").nth(5)).to_be_attached()
        await page.keyboard.press("Control+Enter")  # one run at a time
        await page.keyboard.press("Escape")
        await expect(page.locator('.lane[data-state="cancelled"]')).to_have_count(1)
