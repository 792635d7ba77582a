"""Retries are a share of the load, and some for a quiet system."""

from __future__ import annotations

import asyncio
import time

from orchestrator.replicas.budget import RetryBudget


async def test_a_burst_goes_through_and_what_is_more_waits_its_turn() -> None:
    budget = RetryBudget(most=5, per_second=50)
    began = time.monotonic()
    assert await asyncio.gather(*(budget.take(0.0) for _ in range(5))) == [True] * 5
    assert not await budget.take(0.0)
    assert await asyncio.gather(*(budget.take(10.0) for _ in range(10))) == [True] * 10
    assert time.monotonic() - began >= 10 / 50 - 0.03


async def test_who_would_wait_too_long_is_told_at_once_and_takes_nothing() -> None:
    budget = RetryBudget(most=1, per_second=0.001)
    assert await budget.take(0.0)
    assert not await budget.take(5.0)
    for _ in range(5):  # a fifth of a token each
        budget.began()
    assert await budget.take(0.0)
    assert not await budget.take(0.0)


async def test_who_leaves_while_it_waits_gives_its_token_back() -> None:
    budget = RetryBudget(most=1, per_second=0.1)
    assert await budget.take(0.0)
    waiting = asyncio.create_task(budget.take(60.0))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    for _ in range(5):
        budget.began()
    assert await budget.take(0.0)
