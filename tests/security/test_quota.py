"""Limits of a key, by a clock that stands still unless it is moved."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.quota import Quota
from tandem.keys import KeyLimits
from tandem.rpc.errors import TandemError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refused(quota: Quota, tokens: int, limits: KeyLimits) -> TandemError:
    with pytest.raises(TandemError) as caught:
        quota.take_prompt(tokens, limits)
    error = caught.value
    assert error.reason == "RATE_LIMIT_EXCEEDED"
    assert error.metadata == {"limit": "tokens_per_minute", "allowed": str(limits.tokens_per_minute)}
    return error


def test_as_many_completions_as_are_allowed_and_no_more() -> None:
    quota, limits = Quota(), KeyLimits(concurrent=3)
    with ExitStack() as held:
        held.enter_context(quota.completions(1, limits))
        held.enter_context(quota.completions(2, limits))
        for count in (1, 3):
            with pytest.raises(TandemError) as caught, quota.completions(count, limits):
                pass
            assert caught.value.metadata == {"limit": "concurrent", "allowed": "3"}
            assert caught.value.retry_after is not None
    assert quota.under_way == 0
    with pytest.raises(TandemError) as caught, quota.completions(4, limits):
        pass
    assert caught.value.retry_after is None  # it will never fit


def test_a_place_is_free_again_also_after_an_error() -> None:
    quota, limits = Quota(), KeyLimits(concurrent=1)
    with pytest.raises(RuntimeError), quota.completions(1, limits):
        raise RuntimeError
    with quota.completions(1, limits):
        pass


async def test_those_who_come_together_share_one_bucket() -> None:
    quota, limits, taken = Quota(Clock()), KeyLimits(tokens_per_minute=100), 0

    async def come() -> None:
        nonlocal taken
        await asyncio.sleep(0)
        quota.take_prompt(10, limits)
        taken += 1

    await asyncio.gather(*(come() for _ in range(50)), return_exceptions=True)
    assert taken == 10


def test_a_request_under_way_is_never_cut_and_the_next_waits_for_its_debt() -> None:
    clock = Clock()
    quota, limits = Quota(clock), KeyLimits(tokens_per_minute=60)
    quota.take_prompt(50, limits)
    quota.take_generated(40, limits)  # 30 below empty
    assert refused(quota, 1, limits).retry_after == pytest.approx(31)
    clock.now = 30.5
    assert refused(quota, 1, limits).retry_after == pytest.approx(0.5)
    clock.now = 31
    quota.take_prompt(1, limits)
    assert refused(quota, 20, limits).retry_after == pytest.approx(20)


def test_the_bucket_holds_no_more_than_a_minute() -> None:
    clock = Clock()
    quota, limits = Quota(clock), KeyLimits(tokens_per_minute=60)
    clock.now = 3600
    quota.take_prompt(60, limits)
    refused(quota, 1, limits)


def test_a_prompt_that_is_larger_than_the_bucket_is_not_told_to_come_back() -> None:
    error = refused(Quota(Clock()), 61, KeyLimits(tokens_per_minute=60))
    assert error.retry_after is None and "61" in error.message


def test_without_limits_nothing_is_refused() -> None:
    quota = Quota(Clock())
    quota.take_prompt(10**9, KeyLimits())
    quota.take_generated(10**9, KeyLimits())
    with quota.completions(10**6, KeyLimits()):
        quota.take_prompt(60, KeyLimits(tokens_per_minute=60))  # what came before the limit is not held against it


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.floats(0, 30)), max_size=40))
def test_no_key_has_more_than_its_rate_and_one_request_in_debt(requests: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    quota, limits, used = Quota(clock), KeyLimits(tokens_per_minute=60), 0
    for prompt, generated, pause in requests:
        clock.now += pause
        try:
            quota.take_prompt(prompt, limits)
        except TandemError:
            continue
        used += prompt
        assert used <= 60 + clock.now + 1e-6  # what it began with, and what has flowed in
        quota.take_generated(generated, limits)
        used += generated
