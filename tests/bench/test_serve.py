"""Load is offered as it says, windows count what they say, and policies are compared run by run."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.goals import Goal, Outcome, Verdict, judge
from bench.policies import ALONE, GOODPUT, POLICIES, VANILLA
from bench.prompts import Prompt
from bench.serve import compare
from bench.serve.arrivals import WARM_UP, open_loop, poisson
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.compare import Crossing, Ratio, stops_paying, sweep
from bench.serve.figures import figures
from bench.serve.loops import Load, Loaded
from bench.serve.options import Options
from bench.serve.points import Point
from bench.serve.records import NOT_SENT, Percentiles, Record, Window
from bench.serve.report import Report
from bench.serve.run import Scale, run, whole_repetitions
from bench.serve.workload import Workload
from tandem.cli.errors import CliError
from tandem.inference.engine import EngineLimits
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tests.cli import processes
from tests.cli.conftest import models as models  # a fixture
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

PROMPTS = [Prompt("text", str(number), f"prompt number {number}", raw=True) for number in range(5)]


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


# What is sent.


def sent(workload: Workload, policy: str, repetition: int = 0) -> list[completion_pb2.CompleteRequest]:
    return [workload.requests(POLICIES[policy], repetition, policy)(number) for number in range(12)]


def test_policies_get_the_same_prompts_and_seeds_and_no_prefix_of_each_other() -> None:
    workload = Workload(PROMPTS, max_tokens=4, seed=7)
    alone, vanilla = sent(workload, ALONE), sent(workload, VANILLA)
    assert [each.sampling.seed for each in alone] == [each.sampling.seed for each in vanilla] == list(range(7, 19))
    rest = [[each.text.partition("\n")[2] for each in requests] for requests in (alone, vanilla)]
    assert rest[0] == rest[1] and sorted(rest[0][:5]) == [prompt.text for prompt in PROMPTS]
    marks = [each.text.partition("\n")[0] for each in alone + vanilla]
    assert len(set(marks)) == len(marks) and {len(mark) for mark in marks} == {10}
    assert sent(workload, ALONE) == alone  # of a seed always the same


def test_each_repetition_has_an_order_of_its_own() -> None:
    workload = Workload(PROMPTS, max_tokens=4, shared_prompts=True)
    orders = {tuple(each.text for each in sent(workload, ALONE, repetition)[:5]) for repetition in range(5)}
    assert len(orders) > 1


def test_shared_prompts_are_sent_as_they_are_and_texts_may_end_by_themselves() -> None:
    requests = sent(Workload(PROMPTS, max_tokens=4, shared_prompts=True, natural_lengths=True), ALONE)
    assert {each.text for each in requests} == {prompt.text for prompt in PROMPTS}
    assert not any(each.ignore_end_tokens for each in requests)
    assert all(each.ignore_end_tokens for each in sent(Workload(PROMPTS, max_tokens=4), ALONE))


def test_arrivals_are_those_of_a_poisson_process() -> None:
    moments = list(itertools.islice(poisson(4.0, random.Random(1)), 4000))
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *moments])]
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.05)  # as large as the mean: gaps are exponential
    assert moments == list(itertools.islice(poisson(4.0, random.Random(1)), 4000))


# Load on real services.


@asynccontextmanager
async def calling(
    patience: float = 5.0, timeout: float = 30.0, **settings: object
) -> AsyncGenerator[tuple[Caller, Trio]]:
    target, draft = tiny_llama(1, vocabulary=257), tiny_llama(1, vocabulary=257, noise=0.02)
    async with (
        trio(target, draft, byte_tokenizer(), **settings) as services,
        Caller(services.orchestrator.address, timeout=timeout, patience=patience) as caller,
    ):
        yield caller, services


def requests_of(policy: str = ALONE, tokens: int = 6) -> Callable[[int], completion_pb2.CompleteRequest]:
    return Workload(PROMPTS, max_tokens=tokens).requests(POLICIES[policy], 0, policy)


def most_at_once(records: Sequence[Record]) -> int:
    edges = [(record.due, 1) for record in records]
    edges += [(record.ended, -1) for record in records if record.ended is not None]
    return max(itertools.accumulate(change for _, change in sorted(edges)))


async def test_a_closed_loop_keeps_its_clients_busy_and_no_more_than_them() -> None:
    async with calling() as (caller, services):
        loaded = await closed_loop(caller, requests_of(VANILLA), 3, seconds=0.3, least_requests=2)
        assert most_at_once(loaded.records) == 3
        assert loaded.window.seconds >= 0.3 and len(loaded.counted) >= 2 * 3
        assert all(loaded.window.holds(record.due) and loaded.window.holds(record.ended) for record in loaded.counted)
        warm_up = [record for record in loaded.records if record.ended and record.ended <= loaded.window.began]
        assert len(warm_up) >= 3
        # Every token of an answer was seen to arrive, and as many as the service says.
        for record in loaded.counted:
            assert record.finish is not None and record.failure is None
            assert sum(tokens for _, tokens in record.arrivals) == record.finish.usage.completion_tokens == 6
        assert loaded.cpu_seconds > 0
        async with asyncio.timeout(20):  # what was cut off is given up by the services
            while services.target_engine.load().sequences:
                await asyncio.sleep(0.01)


async def test_the_window_of_one_caller_holds_whole_requests() -> None:
    async with calling() as (caller, _):
        loaded = await closed_loop(caller, requests_of(), 1, seconds=0.1, least_requests=3)
    count = loaded.window.completions(loaded.records)
    assert count == len(loaded.counted) >= 3 and loaded.window.tokens(loaded.records) == 6 * count
    assert loaded.window.ended == loaded.counted[-1].ended


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    async with calling() as (caller, _):
        loaded = await open_loop(
            caller, requests_of(), 20.0, random.Random(3), seconds=1.0, most_in_flight=64
        )
    start = loaded.window.began - WARM_UP
    planned = itertools.takewhile(lambda moment: moment < 1 + WARM_UP, poisson(20.0, random.Random(3)))
    due = [record.due - start for record in loaded.records][: len(expected := list(planned))]
    assert due == pytest.approx(expected, abs=1e-6) and len(expected) > 10
    assert [record.due for record in loaded.counted] == [
        record.due for record in loaded.records if loaded.window.holds(record.due)
    ]
    assert all(record.failure is None and record.ended is not None for record in loaded.counted)


async def test_what_is_due_beyond_the_most_in_flight_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0
    call = Caller.call

    async def counted(
        self: Caller, request: completion_pb2.CompleteRequest, record: Record
    ) -> TandemError | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await call(self, request, record)
        finally:
            under_way -= 1

    monkeypatch.setattr(Caller, "call", counted)  # when one was due says less: it may be sent late
    async with calling() as (caller, _):
        loaded = await open_loop(
            caller, requests_of(tokens=60), 60.0, random.Random(3), seconds=0.7, most_in_flight=2
        )
    assert most == 2 < len(loaded.counted)
    point = Point("any", Load(rate=60.0), [loaded])
    assert set(point.failures) == {NOT_SENT} and point.failures[NOT_SENT] + len(point.completed) == len(loaded.counted)


@pytest.mark.parametrize("kind", ["closed", "open"])
async def test_refusals_of_a_full_service_are_counted_and_not_sent_again(kind: str) -> None:
    async with calling(target_limits=EngineLimits(max_sequences=1), max_waiting=0) as (caller, _):
        if kind == "closed":
            loaded = await closed_loop(caller, requests_of(), 3, seconds=0.2, least_requests=1)
        else:
            source = random.Random(3)
            loaded = await open_loop(caller, requests_of(), 60.0, source, seconds=0.5, most_in_flight=64)
    failures = [record for record in loaded.records if record.failure is not None]
    assert {record.failure for record in failures} == {"RESOURCE_EXHAUSTED"}
    assert any(record.failure is None and record.ended is not None for record in loaded.records)
    assert not any(record.arrivals for record in failures)
    assert len(loaded.records) < 200  # a refused caller pauses


async def test_a_request_that_takes_too_long_counts_as_failed() -> None:
    async with calling(timeout=0.02) as (caller, _):
        loaded = await closed_loop(caller, requests_of(tokens=200), 1, seconds=0.1, least_requests=1)
    assert {record.failure for record in loaded.counted} == {"DEADLINE_EXCEEDED"}


async def test_an_error_that_is_no_matter_of_load_ends_the_bench() -> None:
    too_long = Workload([Prompt("text", "1", "x" * 600, raw=True)], max_tokens=6).requests(POLICIES[ALONE], 0, "")
    async with calling() as (caller, _):
        with pytest.raises(TandemError, match="PROMPT_TOO_LONG"):
            await closed_loop(caller, too_long, 2, seconds=0.1, least_requests=1)
        with pytest.raises(TandemError, match="PROMPT_TOO_LONG"):
            await open_loop(caller, too_long, 50.0, random.Random(1), seconds=0.2, most_in_flight=4)


@pytest.mark.parametrize("kind", ["closed", "open"])
async def test_a_service_that_is_gone_ends_the_bench(kind: str) -> None:
    async with calling(patience=0.1, connect_timeout_seconds=0.2) as (caller, services):
        services.target.grace_seconds = 0
        await services.target.drain()
        with pytest.raises(TandemError, match="TARGET_UNAVAILABLE"):
            if kind == "closed":
                await closed_loop(caller, requests_of(), 2, seconds=0.1, least_requests=1)
            else:
                await open_loop(caller, requests_of(), 40.0, random.Random(1), seconds=2, most_in_flight=64)


async def test_a_draft_that_is_gone_ends_the_bench() -> None:
    async with calling(connect_timeout_seconds=0.2) as (_, services):
        assert services.draft is not None
        services.draft.grace_seconds = 0
        await services.draft.drain()
        workload, policies = Workload(PROMPTS, max_tokens=4), {ALONE: POLICIES[ALONE], VANILLA: POLICIES[VANILLA]}
        with pytest.raises(CliError, match="draft"):
            await run(
                services.orchestrator.address, workload, policies, [Load(clients=1)], Scale(seconds=0.1), [],
                lambda _: None,
            )  # fmt: skip


async def test_all_policies_are_measured_at_all_loads_in_each_repetition() -> None:
    policies = {name: POLICIES[name] for name in (ALONE, VANILLA)}
    loads, said, points = [Load(clients=1), Load(clients=2), Load(rate=20.0)], list[str](), list[Point]()
    async with calling() as (_, services):
        await run(
            services.orchestrator.address, Workload(PROMPTS, max_tokens=6), policies, loads,
            Scale(seconds=0.2, repetitions=3), points, said.append,
        )  # fmt: skip
    assert [(point.policy, point.load) for point in points] == [(name, load) for load in loads for name in policies]
    assert all(len(point.runs) == 3 and min(point.speeds) > 0 for point in points)
    measured = [text for text in said if text.startswith("repetition")]
    assert len(measured) == 3 * 3 * 2 and len({text.rpartition(",")[2] for text in measured[::2]}) == 2
    by_policy = {point.policy: point for point in points if point.load == loads[0]}
    assert by_policy[ALONE].plain_share == 1.0 and by_policy[ALONE].mean_acceptance_length == 1.0
    assert 0 < (by_policy[VANILLA].plain_share or 0) < 1 < (by_policy[VANILLA].mean_acceptance_length or 0)


async def test_what_whole_repetitions_gave_outlives_an_interruption() -> None:
    class Interrupted(Exception):
        pass

    def say(text: str) -> None:
        if text.startswith("repetition 2 of 3: 2 "):
            raise Interrupted

    loads, points = [Load(clients=1), Load(clients=2)], list[Point]()
    policies = {name: POLICIES[name] for name in (ALONE, VANILLA)}
    async with calling() as (_, services):
        with pytest.raises(Interrupted):
            await run(
                services.orchestrator.address, Workload(PROMPTS, max_tokens=6), policies, loads,
                Scale(seconds=0.1, repetitions=3), points, say,
            )  # fmt: skip
    assert [len(point.runs) for point in points] == [2, 2, 1, 1]
    assert whole_repetitions(points) == 1 and [len(point.runs) for point in points] == [1, 1, 1, 1]


# The command.


def test_options_are_what_their_defaults_promise() -> None:
    assert [load.clients for load in Options().loads()] == [1, 2, 4, 8, 16]
    assert Options(rate=[2.0]).loads() == [Load(rate=2.0)]
    assert Options(rate=[2.0], clients=[4, 1, 4]).loads() == [Load(clients=1), Load(clients=4), Load(rate=2.0)]
    assert list(Options().policies()) == [ALONE, VANILLA, "AdaSD v1", GOODPUT]
    assert list(Options(policy=[GOODPUT], sweep=True).policies()) == [ALONE, GOODPUT, *compare.FIXED]
    assert (Options().scale().repetitions, Options(check=True).scale().repetitions) == (1, 5)
    assert Options(check=True, repeat=7).scale().repetitions == 7
    fixed = {name: policy.stop.max_tokens for name, policy in compare.FIXED.items()}
    assert fixed == {f"fixed, {length}": length for length in (1, 2, 3, 5, 8, 12)}
    assert all(policy.accept.WhichOneof("rule") == "exact" for policy in compare.FIXED.values())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--policy", "magic"], "magic"), (["--check", "--repeat", "4"], "--repeat"), (["--rate", "0"], "--rate"),
        (["--draft-model", "none"], "--draft-model"), (["--clients", "65"], "--clients"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"), (["--json", "nowhere/file.json"], "nowhere"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_used_are_named(flags: list[str], named: str) -> None:
    done = CliRunner().invoke(app, ["serve", *flags])
    assert (done.exit_code, done.stdout) == (2, "") and named in done.stderr


def of_tiny_models(models: Path, tmp_path: Path) -> list[str | Path]:
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"text": prompt.text}) + "\n" for prompt in PROMPTS))
    return [
        "--target-model", models / "target", "--draft-model", models / "draft", "--dtype", "float32", "--threads", "1",
        "--data", data, "--max-tokens", "6",
    ]  # fmt: skip


def test_the_command_measures_real_services_and_writes_what_it_found(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "serve.json"
    flags = ["--policy", VANILLA, "--clients", "1", "--clients", "3", "--rate", "20", "--seconds", "0.5"]
    flags += ["--repeat", "2", "--json", str(path)]
    done = processes.run(sys.executable, "-m", "bench", "serve", *of_tiny_models(models, tmp_path), *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"| {VANILLA} ") == 3 + 2  # at each load, and where it stops paying, for each kind
    assert "4 not measured" in done.stdout.splitlines()[-1]
    document = json.loads(path.read_text())
    assert document["bench"] == "serve" and document["options"]["clients"] == [1, 3]
    points = document["data"]["points"]
    assert {(point["kind"], point["load"]) for point in points} == {("closed", 1), ("closed", 3), ("open", 20)}
    for point in points:
        assert point["requests"] > 0 == point["failed"] and point["tokens_per_second"] > 0
        assert point["seconds"] > 0.99  # of both repetitions
        assert point["first_token_ms"]["p50"] <= point["latency_ms"]["p50"] <= point["latency_ms"]["p99"]
        assert (point["over_alone"] is None) == (point["policy"] == ALONE)
    assert all(len(point["over_alone"]["values"]) == 2 for point in points if point["policy"] == VANILLA)


def test_ctrl_c_ends_the_bench_and_its_services(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TANDEM", sys.executable)
    flags = of_tiny_models(models, tmp_path) + ["--policy", VANILLA, "--clients", "2", "--seconds", "1000"]
    with processes.running("-m", "bench", "serve", *flags) as command:
        while len(command.offspring()) < 3 and command.process.poll() is None:
            time.sleep(0.05)
        time.sleep(1.0)  # into the load, or nearly: it must make no difference
        command.press_ctrl_c()
        assert command.end() == 130
        assert command.offspring() == {} and "Traceback" not in command.errors, command.errors
