"""What a person does on the page, for tests that are about something else."""

from __future__ import annotations

from urllib.parse import urlencode

from tests.playground.browser import Page, expect

ENDED = '[data-state="done"], [data-state="failed"], [data-state="cancelled"]'


def link(url: str, *lanes: str, **fields: object) -> str:
    """The address of a page that is set to something. lanes: as `off` or `fixed coupled max_tokens=3`."""
    return f"{url}#{urlencode([*fields.items(), *(('lane', lane) for lane in lanes)])}"


async def run_to_the_end(page: Page) -> None:
    # Emptied first: a short run may be over before anybody looks.
    await page.locator("#spoken").evaluate("place => { place.textContent = ''; }")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#spoken")).to_contain_text("tokens.", timeout=60_000)
    lanes = page.locator(".lane")
    await expect(page.locator(f".lane:is({ENDED})")).to_have_count(await lanes.count())


async def texts(page: Page) -> list[str]:
    """What each lane shows, to the character."""
    return await page.locator(".lane .text").evaluate_all("all => all.map(text => text.textContent)")


async def report(page: Page, lane: int) -> dict[str, str]:
    """The lines under a lane."""
    lines = page.locator(".lane").nth(lane).locator(".report > div")
    pairs = await lines.evaluate_all("all => all.map(line => [...line.children].map(part => part.textContent))")
    return {name: value for name, value in pairs}
