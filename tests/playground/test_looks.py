"""Both themes, small and large screens: nothing is cut off, and everything can be read."""

from __future__ import annotations

import pytest

from tests.playground.browser import Browser, Page, expect, visit
from tests.playground.serving import Served
from tests.playground.steps import link, run_to_the_end

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {"mode": "text", "prompt": "x", "temperature": 0.9, "seed": 11, "max_tokens": 50}
LANES = ("off", "fixed coupled max_tokens=4", "adasd adasd")
#: What is written, or drawn, on what, and the contrast that it needs: 4.5 for text, 3 for marks and edges (WCAG AA).
PAIRS = [
    *((ink, ground, 4.5) for ink in ("text", "quiet") for ground in ("page", "surface", "faint")),
    *(("text", f"{source}-tint", 4.5) for source in ("matched", "through", "correction", "bonus")),
    *((source, f"{source}-tint", 3.0) for source in ("matched", "through", "correction", "bonus")),
    *((source, "surface", 4.5) for source in ("matched", "through", "target")),
    *((part, "faint", 3.0) for part in ("draft", "target", "wire", "orchestrator")),
    *((fate, "surface", 3.0) for fate in ("correction", "threshold", "unreached", "edge", "accent")),
    ("on-accent", "accent", 4.5), ("alarm", "surface", 4.5), ("alarm", "page", 4.5), ("text", "alarm-tint", 4.5),
]  # fmt: skip
COLOUR = """name => {
  const probe = document.createElement('span');
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
  probe.remove();
  return [r, g, b];
}"""


def luminance(colour: list[float]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def contrast(page: Page, ink: str, ground: str) -> float:
    lights = sorted([luminance(await page.evaluate(COLOUR, name)) for name in (ink, ground)])
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_and_marks_have_enough_contrast_in_both_themes(
    served: Served, browser: Browser, scheme: str
) -> None:
    async with visit(browser, served.url, color_scheme=scheme) as page:
        low = [
            (ink, ground, round(found, 2), needed)
            for ink, ground, needed in PAIRS
            if (found := await contrast(page, ink, ground)) < needed
        ]
        assert low == []


async def test_the_theme_follows_the_system_until_one_is_chosen(served: Served, browser: Browser) -> None:
    async def ground() -> float:
        colour = await page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
        return luminance([float(part) for part in colour.strip("rgb()").split(",")])

    async with visit(browser, served.url, color_scheme="dark") as page:
        assert await ground() < 0.05
        await page.emulate_media(color_scheme="light")
        assert await ground() > 0.8
        await page.get_by_role("button", name="Theme: auto").click()
        await page.get_by_role("button", name="Theme: light").click()
        assert await ground() < 0.05
        await page.reload()
        await expect(page.locator("#theme")).to_have_text("Theme: dark")
        assert await ground() < 0.05


async def test_charts_are_painted_in_the_colours_of_the_theme(served: Served, browser: Browser) -> None:
    """Counts the pixels of the verification's colour in the timeline, in either theme."""
    count = """(canvas, [r, g, b]) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let found = 0;
      for (let at = 0; at < data.length; at += 4) {
        found += Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b) < 6;
      }
      return found;
    }"""
    told = ("willReadFrequently",)  # of reading a canvas more than once, which only this test does
    address = link(served.url, "fixed exact", **SETTINGS)
    async with visit(browser, address, tolerated=told, color_scheme="light") as page:
        await run_to_the_end(page)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            await page.wait_for_timeout(100)
            for name in ("draft", "target"):
                colour = await page.evaluate(COLOUR, name)
                assert await page.locator("canvas.timeline").evaluate(count, colour) > 100, (scheme, name)


@pytest.mark.parametrize("width", [320, 390, 820, 1100, 1440, 2200])
async def test_nothing_is_wider_than_the_screen(served: Served, browser: Browser, width: int) -> None:
    viewport = {"width": width, "height": 900}
    settings = {**SETTINGS, "prompt": "w" * 300}
    async with visit(browser, link(served.url, *LANES, **settings), viewport=viewport) as page:
        for summary in await page.locator(".lane summary:visible").all():
            await summary.click()
        await run_to_the_end(page)
        wide = await page.evaluate(
            """() => [...document.querySelectorAll('body, body *')]
              .filter(each => !each.closest('.unseen, .skip') && each.getBoundingClientRect().right > innerWidth + 1)
              .map(each => `${each.tagName}.${each.className}`)"""
        )
        assert wide == []
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


async def test_the_same_part_of_each_lane_stands_at_one_height(served: Served, browser: Browser) -> None:
    async with visit(browser, link(served.url, *LANES, **SETTINGS), viewport={"width": 1440, "height": 900}) as page:
        await run_to_the_end(page)
        for part in (".metrics", ".text", "canvas.timeline", "canvas.candidates", ".report"):
            boxes = [await each.bounding_box() for each in await page.locator(f".lane {part}").all()]
            assert len({round(box["y"]) for box in boxes if box}) == 1, part
