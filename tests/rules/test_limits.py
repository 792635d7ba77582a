"""Limits of a block, candidate by candidate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.block_limits import Limiter, expected_acceptance
from tandem.v1 import draft_pb2

CURVE = draft_pb2.AcceptanceCurve(entropies=[0.5, 1.0, 3.0], acceptances=[0.9, 0.5, 0.25])


@pytest.mark.parametrize(("entropy", "expected"), [(0, 0.9), (0.5, 0.9), (0.75, 0.7), (1, 0.5), (2, 0.375), (9, 0.25)])
def test_a_curve_is_linear_between_its_knots_and_constant_outside(entropy: float, expected: float) -> None:
    assert expected_acceptance(CURVE, entropy) == pytest.approx(expected)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.lists(st.floats(-9, 0), min_size=30, max_size=30))
def test_survival_sees_entropies_only(entropies: list[float], log_probabilities: list[float]) -> None:
    limits = draft_pb2.DraftLimits(max_tokens=64, min_survival=[0.2], acceptance_curve=CURVE)
    ends, product = [], 1.0
    for logs in ([0.0] * 30, log_probabilities):
        limiter = Limiter(limits)
        stops = [limiter.after(*each) for each in zip(entropies, logs, strict=False)]
        ends.append(next((index for index, stop in enumerate(stops) if stop is not None), None))
    assert ends[0] == ends[1]
    for index, entropy in enumerate(entropies):
        product *= expected_acceptance(CURVE, entropy)
        if product < 0.2:
            assert ends[0] == index
            return
    assert ends[0] is None


def test_a_minimum_holds_back_every_limit() -> None:
    limits = draft_pb2.DraftLimits(
        min_tokens=2, max_tokens=9, max_entropy_before=0.1, max_entropy_after=0.1, min_probability=0.9,
        min_joint_probability=0.9, min_survival=[2.0], acceptance_curve=CURVE,
    )  # fmt: skip
    limiter = Limiter(limits)
    assert not limiter.refuses(5.0) and limiter.after(5.0, -3.0) is None
    assert not limiter.refuses(5.0) and limiter.after(5.0, -3.0) == draft_pb2.DRAFT_STOP_ENTROPY_AFTER
    assert limiter.refuses(5.0)
