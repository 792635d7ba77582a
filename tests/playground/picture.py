"""`python -m tests.playground.picture [URL]`: takes docs/playground.png anew, of services that run elsewhere and have
little else to do: `tandem up --dtype float32`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from PIL import Image

from tests.playground.browser import chromium, expect, visit
from tests.playground.steps import run_to_the_end

PICTURE = Path(__file__).parents[2] / "docs" / "playground.png"


async def take(url: str) -> None:
    """The page after a run, with a token that a lossy rule let through pointed at."""
    async with (
        chromium() as browser,
        visit(browser, url, viewport={"width": 1376, "height": 1000}, color_scheme="light") as page,
    ):
        await run_to_the_end(page)
        await expect(page.locator("#served")).to_contain_text("0 completions")
        await page.locator('.lane:last-child .token[data-source="through"]').nth(1).hover()
        await expect(page.locator("#details")).to_be_visible()
        await page.screenshot(path=PICTURE, full_page=True)
    image = Image.open(PICTURE).convert("RGB")  # 256 colours are enough, at a third of the size
    image.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7080/"))
