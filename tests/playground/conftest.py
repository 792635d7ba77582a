"""A browser and a served page for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.playground.serving import Served

# Imported in the fixtures: without a browser the test modules are skipped, by name, and this file is not to fail.


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncGenerator[Served]:
    from tests.playground.serving import playground

    async with playground() as serving:
        yield serving


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncGenerator[Browser]:
    from tests.playground.browser import chromium

    async with chromium() as started:
        yield started
