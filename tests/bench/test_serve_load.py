"""`bench serve`: policies get the same requests, and load is offered to real services as it says."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from bench.policies import ALONE, POLICIES, VANILLA
from bench.prompts import Prompt
from bench.serve.arrivals import WARM_UP, open_loop, poisson
from bench.serve.caller import Caller
from bench.serve.closed import closed_loop
from bench.serve.loops import Load
from bench.serve.points import Point
from bench.serve.records import NOT_SENT, Record
from bench.serve.run import Scale, run, whole_repetitions
from bench.serve.workload import Workload
from tandem.cli.errors import CliError
from tandem.inference.engine import EngineLimits
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tests.cli.conftest import models as models  # a fixture
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

PROMPTS = [Prompt("text", str(number), f"prompt number {number}", raw=True) for number in range(5)]


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
