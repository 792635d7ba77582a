"""Which candidates a budget goes to."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tandem.inference.choosing import choose, weigh

_SCORES = st.lists(
    st.lists(st.floats(-4, 0), max_size=4).map(lambda each: sorted(each, reverse=True)), max_size=4
)


def logs(*products: float) -> list[float]:
    return [math.log(value) for value in products]


def test_two_requests_by_hand() -> None:
    """Algorithm 1 of arXiv 2502.15197: draft probabilities (.9, .8, .7) and (.6, .95) make running products
    .9, .72, .504 and .6, .57, which are taken from the largest on."""
    scores = [logs(0.9, 0.72, 0.504), logs(0.6, 0.57)]
    assert [choose(scores, most) for most in range(6)] == [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [3, 2]]


@given(scores=_SCORES, most=st.integers(0, 12))
def test_no_other_prefixes_of_as_many_are_expected_to_keep_more(scores: list[list[float]], most: int) -> None:
    def expected(counts: tuple[int, ...]) -> float:
        return sum(math.exp(value) for each, count in zip(scores, counts, strict=True) for value in each[:count])

    found = tuple(choose(scores, most))
    assert sum(found) == min(most, sum(map(len, scores)))
    others = itertools.product(*(range(len(each) + 1) for each in scores))
    best = max(expected(counts) for counts in others if sum(counts) <= most)
    assert math.isclose(expected(found), best, abs_tol=1e-12)


@given(scores=_SCORES.filter(lambda scores: any(scores)), most=st.integers(0, 12), data=st.data())
def test_whether_one_is_chosen_does_not_depend_on_those_behind_it(
    scores: list[list[float]], most: int, data: st.DataObject
) -> None:
    block = data.draw(st.sampled_from([at for at, each in enumerate(scores) if each]))
    place = data.draw(st.integers(0, len(scores[block]) - 1))
    behind = data.draw(st.lists(st.floats(-9, 0), max_size=4))
    tail = [min(value, scores[block][place]) for value in sorted(behind, reverse=True)]
    other = [*scores[:block], [*scores[block][: place + 1], *tail], *scores[block + 1 :]]
    assert (choose(scores, most)[block] > place) == (choose(other, most)[block] > place)


def test_equal_ones_go_by_place_then_by_block() -> None:
    assert choose([[0.0, 0.0], [0.0, 0.0]], 3) == [2, 1]
    assert choose([[0.0, 0.0], [0.0, 0.0]], 2) == [1, 1]


def test_candidates_are_taken_while_they_make_more_a_second_than_the_step_does() -> None:
    """By hand: two blocks, a step of 10 ms and 1 ms for each token beyond the two that are there anyway. Without
    candidates 2 tokens in 10 ms: .2 a ms, so .9 pays its 1 ms, and .8 (2.9 in 11 ms: .264) and .3 (3.7 in 12: .308)
    does not."""

    def seconds(tokens: float) -> float:
        return 10 + (tokens - 2)

    assert weigh([logs(0.9, 0.3, 0.2), logs(0.8)], 2, 2, seconds) == [1, 1]
    assert weigh([logs(0.9, 0.31, 0.2), logs(0.8)], 2, 2, seconds) == [2, 1]


def test_all_are_taken_where_they_cost_nothing_and_none_where_each_costs_a_step() -> None:
    scores = [logs(0.5, 0.01), logs(0.001)]
    assert weigh(scores, 2, 2, lambda tokens: 10.0) == [2, 1]
    assert weigh(scores, 2, 2, lambda tokens: tokens) == [0, 0]


def test_a_step_is_paid_by_all_that_fit_on_it() -> None:
    """Beyond the third token a step takes twice as long, up to eight: one candidate does not pay for that, five do."""

    def seconds(tokens: float) -> float:
        return 10.0 if tokens <= 3 else 20.0

    assert weigh([logs(*[0.9] * 5)], 3, 3, seconds) == [5]
    assert weigh([logs(*[0.3] * 5)], 3, 3, seconds) == [0]


@given(scores=_SCORES.filter(lambda scores: any(scores)), slope=st.floats(0, 1), data=st.data())
def test_what_is_worth_its_time_does_not_depend_on_those_behind_it(
    scores: list[list[float]], slope: float, data: st.DataObject
) -> None:
    block = data.draw(st.sampled_from([at for at, each in enumerate(scores) if each]))
    place = data.draw(st.integers(0, len(scores[block]) - 1))
    behind = data.draw(st.lists(st.floats(-9, 0), max_size=4))
    tail = [min(value, scores[block][place]) for value in sorted(behind, reverse=True)]
    other = [*scores[:block], [*scores[block][: place + 1], *tail], *scores[block + 1 :]]

    def seconds(tokens: float) -> float:
        return 1 + slope * tokens + (tokens > 5)

    found, others = (weigh(each, 3, 2.0, seconds)[block] > place for each in (scores, other))
    assert found == others
