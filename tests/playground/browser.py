"""Headless Chromium, and a page that keeps account of what a person would not see: its console and its requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")

if not CHROMIUM.exists():
    pytest.skip(f"needs Chromium as {CHROMIUM}", allow_module_level=True)
_api = pytest.importorskip("playwright.async_api", reason="needs the package playwright")

Browser = _api.Browser
Page = _api.Page
expect = _api.expect

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """A browser with an empty profile of its own."""
    async with _api.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visit(
    browser: Browser, url: str, *, tolerated: tuple[str, ...] = (), **context: object
) -> AsyncGenerator[Page]:
    """The page at `url` in a window of its own. At the end: nothing in its console but what is tolerated, and no
    request to anywhere else.

    tolerated: parts of console errors; the browser reports every answer that is an error there.
    """
    window = await browser.new_context(**context)  # type: ignore[arg-type]
    page = await window.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    try:
        await page.goto(url)
        yield page
    finally:
        await window.close()
    home = url.split("#")[0]
    assert [text for text in said if not any(part in text for part in tolerated)] == []
    assert [each for each in asked if not each.startswith(home)] == []
