from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateway.serving import Gateway, gateway


@pytest.fixture
async def served() -> AsyncIterator[Gateway]:
    async with gateway() as running:
        yield running
