"""`bench serve`: windows count what they say, and policies are compared run by run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from bench.goals import Goal, Outcome, Verdict, judge
from bench.policies import ALONE, GOODPUT, VANILLA
from bench.serve import compare
from bench.serve.compare import Crossing, Ratio, stops_paying, sweep
from bench.serve.figures import figures
from bench.serve.loops import Load, Loaded
from bench.serve.points import Point
from bench.serve.records import Percentiles, Record, Window
from bench.serve.report import Report
from tandem.v1 import completion_pb2
from tests.cli.conftest import models as models  # a fixture


def finished(tokens: int = 8, *, accepted: int = 0, drafted: int = 0, steps: int = 0, plain: int = 0):
    finish = completion_pb2.Finish()
    finish.usage.completion_tokens = tokens
    report = finish.speculation
    report.accepted_tokens, report.drafted_tokens, report.verify_steps = accepted, drafted, steps
    report.plain_tokens = plain
    return finish


def answered(due: float, *moments: float, tokens: int = 2, **finish: int) -> Record:
    """A request whose messages of `tokens` came at `moments`; the last one ended it."""
    return Record(due, [(moment, tokens) for moment in moments], moments[-1], finished(**finish))


def a_run(window: Window, *records: Record) -> Loaded:
    return Loaded(window, list(records), window.whole(records), 0.0)


def a_point(policy: str, *speeds: float, load: Load = Load(clients=1)) -> Point:  # noqa: B008
    """With so many tokens per second in each run: all of them in one message within a second."""
    return Point(policy, load, [a_run(Window(0, 1), answered(0.1, 0.5, tokens=int(speed))) for speed in speeds])


# What is counted.


def test_a_window_counts_whole_requests_and_every_token_that_arrives_inside() -> None:
    window = Window(10, 20)
    before, across = answered(8, 9, 10.0), answered(9, 9.9, 10.0, 11)
    inside, at_the_end, after = answered(10.1, 13, 20.0), answered(12, 13, 20.1), answered(20.1, 21)
    failed = Record(13, [(14, 2)], 15, failure="UNAVAILABLE")
    cut_off = Record(15, [(16, 2), (19, 2), (21, 2)])
    records = [before, across, inside, at_the_end, after, failed, cut_off]
    assert window.whole(records) == [inside, failed]
    assert window.due(records) == [inside, at_the_end, failed, cut_off]
    assert window.tokens(records) == 2 * (0 + 1 + 2 + 1 + 0 + 1 + 2)
    assert window.completions(records) == 2  # `across` and `inside`


def test_times_of_a_request_count_from_when_it_was_due() -> None:
    record = Record(100.0, [(101.0, 1), (101.5, 4), (103.0, 5)], 103.25, finished())
    assert (record.first_token_seconds, record.latency_seconds) == (1.0, 3.25)
    assert record.per_token_seconds == pytest.approx(2.0 / 9)
    assert Record(1.0, [(2.0, 1)], 2.0).per_token_seconds is None
    assert Record(1.0).first_token_seconds is None and Record(1.0).latency_seconds is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(100, 0, -1), (50, 95, 99)), (range(1, 201), (100, 190, 198)), ([7], (7, 7, 7)),
        ([1, 2, 3, 4], (2, 4, 4)), (range(1, 21), (10, 19, 20)),
    ],
)  # fmt: skip
def test_percentiles_are_values_that_occurred(values: Sequence[float], expected: tuple[float, ...]) -> None:
    assert Percentiles.of(list(values)) == Percentiles(*expected)


def test_nothing_has_no_percentiles() -> None:
    assert Percentiles.of([]) is None


def test_a_point_adds_up_its_runs() -> None:
    first = a_run(Window(0, 10), answered(1, 2, 3, accepted=6, drafted=10, steps=3, plain=2), answered(2, 9, 11))
    second = a_run(
        Window(0, 30), answered(1, 5, 6, accepted=0, drafted=5, steps=2, plain=6),
        Record(1, [], 2, failure="RESOURCE_EXHAUSTED"), Record(3, [], 4, failure="RESOURCE_EXHAUSTED"),
    )  # fmt: skip
    point = Point("any", Load(clients=2), [first, second])
    assert point.speeds == [0.6, 4 / 30] and point.tokens_per_second == 10 / 40 and point.requests_per_second == 2 / 40
    assert point.mean_acceptance_length == 1 + 6 / 5 and point.mean_block_length == 15 / 5
    assert point.plain_share == 8 / 16 and point.failures == {"RESOURCE_EXHAUSTED": 2}
    plain = point.to_plain()
    assert (plain["requests"], plain["failed"], plain["kind"], plain["load"]) == (2, 2, "closed", 2.0)
    assert plain["latency_ms"] == {"p50": 2000, "p95": 5000, "p99": 5000}
    json.dumps(plain, allow_nan=False)


def test_a_point_without_answers_has_no_times_and_no_speed() -> None:
    for load in (Load(clients=1), Load(rate=1.0)):
        point = Point("any", load, [a_run(Window(0, 1), Record(0, [], 0.5, failure="UNAVAILABLE"))])
        plain = point.to_plain()
        assert plain["latency_ms"] is None and plain["plain_share"] is None and point.speeds == [0]
        assert compare.ratio(point.speeds, [1.0]) is None


def test_an_open_loop_is_compared_by_its_median_latency() -> None:
    records = [answered(0, 0.5), answered(0, 0.25), answered(0, 4)]
    point = Point("any", Load(rate=2.0), [Loaded(Window(0, 1), records, records, 0.0)])
    assert point.speeds == [2.0]


# Comparisons.


def ratios(*values: float | tuple[float, ...]) -> dict[float, Ratio]:
    """At loads 1, 2, 4, ..."""
    each = (Ratio(value if isinstance(value, tuple) else (value,)) for value in values)
    return {float(2**index): ratio for index, ratio in enumerate(each)}


@pytest.mark.parametrize(
    ("by_load", "expected"),
    [
        (ratios(1.5, 1.2, 1.1), None),
        (ratios(1.5, 1.25, 0.75, 0.5), Crossing(3.0, 4.0, compare.INTERPOLATED)),
        (ratios(1.5, 1.0, 0.5), Crossing(2.0, 4.0, compare.INTERPOLATED)),
        (ratios(0.9, 1.2), Crossing(1.0, 1.0, compare.FROM_THE_FIRST)),
        (ratios((1.2, 1.3), (0.9, 1.2), (0.8, 0.9), (0.5, 0.6)), Crossing(4.0, 4.0, compare.BELOW)),
        (ratios((1.2, 1.3), (0.7, 1.01)), None),  # the middle is below, the interval is not
        ({}, None),
    ],
)
def test_speculation_stops_paying_where_its_ratio_shows_it(
    by_load: dict[float, Ratio], expected: Crossing | None
) -> None:
    assert stops_paying(by_load) == expected


def a_sweep(goodput: Sequence[float], alone: Sequence[float], fixed_3: Sequence[float], load: Load) -> list[Point]:
    speeds = {name: [1.0] * len(alone) for name in compare.FIXED}
    speeds |= {ALONE: alone, GOODPUT: goodput, "fixed, 3": fixed_3}
    return [a_point(name, *each, load=load) for name, each in speeds.items()]


def test_goodput_is_held_against_the_best_mean_repetition_by_repetition() -> None:
    """`target alone` is best in one repetition, `fixed, 3` in the mean."""
    load = Load(clients=8)
    (found,) = sweep(a_sweep([10, 20, 30], [40, 10, 10], [20, 20, 30], load))
    assert (found.load, found.best) == (load, "fixed, 3")
    assert found.over_best is not None and list(found.over_best.values) == [0.5, 1.0, 1.0]
    assert found.over_alone is not None and list(found.over_alone.values) == [0.25, 2.0, 3.0]
    (found,) = sweep(a_sweep([10, 20], [40, 10], [20, 20], load))
    assert found.best == ALONE


def test_without_all_lengths_there_is_no_sweep() -> None:
    assert sweep(a_sweep([1], [1], [1], Load(clients=1))[:-1]) == []


def test_goals_of_the_sweep_fall_short_only_where_the_whole_interval_does() -> None:
    one = a_sweep([97, 90, 110, 80, 94], [100] * 5, [50] * 5, Load(clients=1))  # 0.94 in the mean, and noisy
    eight = a_sweep([90, 91, 92, 93, 94], [100] * 5, [50] * 5, Load(clients=8))
    goals = {figure.name: Goal("", 0.97, "at least") for figure in figures([], 0)}
    rows = {row.figure.name: row for row in judge(figures(sweep(one + eight), 5), goals, {})}
    assert {name: row.verdict for name, row in rows.items()} == {
        "goodput_over_best_fixed_1": Verdict.HOLDS, "goodput_over_none_1": Verdict.HOLDS,
        "goodput_over_best_fixed_8": Verdict.SHORT, "goodput_over_none_8": Verdict.SHORT,
    }  # fmt: skip
    measured = rows["goodput_over_best_fixed_1"].figure.measured
    assert measured == pytest.approx(math.prod([0.97, 0.9, 1.1, 0.8, 0.94]) ** 0.2)
    assert "target alone" in rows["goodput_over_best_fixed_8"].figure.note


@pytest.mark.parametrize("repetitions", [0, 1, 4])
def test_too_few_repetitions_have_no_verdict(repetitions: int) -> None:
    goodput, others = [50] * repetitions, [100] * repetitions
    sweeps = sweep(a_sweep(goodput, others, others, Load(clients=1))) if repetitions else []
    found = figures(sweeps, repetitions)
    assert {figure.outcome for figure in found} == {Outcome.SKIPPED}
    measured = [figure.measured for figure in found if figure.measured is not None]
    assert measured == pytest.approx([0.5, 0.5] if repetitions else [])


def test_a_report_says_what_the_system_does_where_speculation_stops_paying() -> None:
    points = [
        a_point(name, speed, load=Load(clients=clients))
        for clients, name, speed in [(1, ALONE, 10), (1, VANILLA, 20), (4, ALONE, 20), (4, VANILLA, 15)]
    ]
    points[-1].runs[0].records[0].finish = finished(10, accepted=2, drafted=20, steps=5, plain=7)
    (crossing,) = Report(points).to_plain()["crossings"]
    assert crossing == {
        "policy": VANILLA, "kind": "closed", "at": pytest.approx(3.4), "measured": 4.0, "plain_share": 0.7,
        "found_by": compare.INTERPOLATED, "mean_block_length": 4.0,
    }  # fmt: skip
