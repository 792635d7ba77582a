"""An engine on a tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tandem.inference.engine import Engine
from tests.inference.works import GatedRunner


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner()


@pytest.fixture
async def engine(runner: GatedRunner) -> AsyncIterator[Engine]:
    engine = Engine(runner)
    engine.start()
    yield engine
    runner.gate.set()
    await engine.close()
