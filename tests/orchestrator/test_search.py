"""The search for a target ends before the caller's patience does."""

from __future__ import annotations

import time

import pytest

from orchestrator.deadline import due
from orchestrator.upstream import Upstream
from tandem.rpc.errors import TandemError


async def test_a_search_gives_up_shortly_before_the_callers_deadline() -> None:
    upstream = Upstream(["127.0.0.1:1"], connect_timeout_seconds=60.0)
    try:
        began = time.monotonic()
        with due(1.5), pytest.raises(TandemError) as caught:
            await upstream.pair(speculates=False)
        took = time.monotonic() - began
        assert caught.value.reason == "TARGET_UNAVAILABLE" and caught.value.retry_after
        assert 0.5 < took < 30
    finally:
        await upstream.close()
