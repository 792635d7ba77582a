"""The orchestrator's metrics say of rounds what the completions themselves report."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from orchestrator import stopping
from orchestrator.stopping import Limits
from tandem.telemetry import Telemetry
from tandem.v1 import completion_pb2, policy_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Telemetries, Trio, make_request, policy, trio
from tests.telemetry.reading import Reading

TOKENIZER = byte_tokenizer(64)
PARTS = ("draft_queue", "draft_compute", "draft_wire", "target_queue", "target_compute", "target_wire", "orchestrator")
#: stop and accept rule, temperature, candidates of a block at most.
POLICIES = [
    ("fixed", "exact", 0.0, 5), ("fixed", "exact", 0.8, 20), ("adasd", "adasd", 0.0, 20), ("adasd", "adasd", 0.8, 20),
    ("adaedl", "ratio", 0.8, 20), ("fixed", "coupled", 0.8, 3), ("fixed", "jsd", 0.0, 5),
]  # fmt: skip

Rounds = list[completion_pb2.RoundAccount]


async def audited(services: Trio, chosen: policy_pb2.SpeculationPolicy, **fields: object) -> tuple[object, Rounds]:
    """The finish, and the account of each round that had candidates."""
    rounds, finish = [], None
    async for response in services.stub.Complete(
        make_request([1, 2, 3], speculation=chosen, audit=True, **fields), timeout=60.0
    ):
        if response.HasField("round"):
            rounds.append(response.round)
        if response.HasField("finish"):
            finish = response.finish
    return finish, rounds


@pytest.mark.parametrize(("stop", "accept", "temperature", "most"), POLICIES)
async def test_every_number_is_the_completions_own(stop: str, accept: str, temperature: float, most: int) -> None:
    told = Telemetries()
    options = {"threshold": 0.4} if accept == "jsd" else {}
    async with trio(tiny_llama(2), tiny_llama(2, noise=0.15), TOKENIZER, telemetry=told) as services:
        chosen = policy(stop, accept, max_tokens=most, **options)
        sampling = {"temperature": temperature, "seed": 4}
        finish, rounds = await audited(services, chosen, max_tokens=120, sampling=sampling)
    report, found = finish.speculation, Reading.of(told.orchestrator.metrics)
    of = {"stop_rule": stop, "accept_rule": accept}
    assert report.verify_steps > 5 and 0 < report.accepted_tokens < report.drafted_tokens
    assert found("tandem_verify_steps_total", **of) == report.verify_steps
    assert found("tandem_drafted_tokens_total", **of) == report.drafted_tokens
    assert found("tandem_accepted_tokens_total", **of) == report.accepted_tokens
    assert found("tandem_wasted_tokens_total", **of) == report.drafted_tokens - report.accepted_tokens
    assert found("tandem_lossy_tokens_total", **of) == report.lossy_tokens
    assert found("tandem_acceptance_length_tokens_count", **of) == report.verify_steps
    assert found("tandem_acceptance_length_tokens_sum", **of) == report.verify_steps + report.accepted_tokens
    check_positions(found, accept, rounds, report)
    check_candidates(found, rounds)
    check_times(found, stop, report)
    assert found("tandem_round_duration_seconds_count", **of) == report.verify_steps
    assert found("tandem_full_row_fetches_total") == report.full_rows
    assert found("tandem_fallback_tokens_total") == 0
    needs_no_q = accept == "coupled" or (accept == "exact" and temperature == 0)
    assert (found("tandem_q_bytes_total") == 0) == needs_no_q
    check_thresholds(found, of, report)


def check_positions(found: Reading, accept: str, rounds: Rounds, report: completion_pb2.SpeculationReport) -> None:
    for place in range(1, 18):
        position, own = (str(place), [place]) if place < 17 else ("17+", range(17, 65))
        verified = sum(each.drafted >= one for each in rounds for one in own)
        accepted = sum(report.accepted_at[one - 1] for one in own if one <= len(report.accepted_at))
        assert found("tandem_verified_position_total", accept_rule=accept, position=position) == verified
        assert found("tandem_accepted_position_total", accept_rule=accept, position=position) == accepted
    assert found("tandem_verified_position_total") == report.drafted_tokens


def check_candidates(found: Reading, rounds: Rounds) -> None:
    """Entropies and distances of what was judged, and of nothing else."""
    for name, column in (("draft_entropy_nats", "draft_entropies"), ("js_distance", "distances")):
        values = {
            "accepted": [value for each in rounds for value in getattr(each, column)[: each.kept]],
            "rejected": [value for each in rounds for value in getattr(each, column)[each.kept : each.kept + 1]],
        }
        for outcome, expected in values.items():
            assert found(f"tandem_{name}_count", outcome=outcome) == len(expected)
            total = found(f"tandem_{name}_sum", outcome=outcome)
            assert total == pytest.approx(math.fsum(expected), rel=1e-4, abs=1e-6)  # the account has floats


def check_times(found: Reading, stop: str, report: completion_pb2.SpeculationReport) -> None:
    times = report.time.rounds
    for part in PARTS:
        seconds = found("tandem_round_seconds_total", stop_rule=stop, part=part)
        assert seconds == pytest.approx(getattr(times, f"{part}_microseconds") / 1e6, abs=1e-9)
    assert found("tandem_round_seconds_total") == pytest.approx(report.time.rounds_microseconds / 1e6, rel=0.01)
    assert found.labels("part") == set(PARTS)


def check_thresholds(found: Reading, of: dict[str, str], report: completion_pb2.SpeculationReport) -> None:
    """Of rules that learn, and of no others."""
    learnt = {"entropy": of["stop_rule"] in ("adasd", "adaedl"), "distance": of["accept_rule"] == "adasd"}
    for name, metric in (("entropy", "tandem_entropy_threshold_nats"), ("distance", "tandem_distance_threshold")):
        expected = report.thresholds[name] if learnt[name] and name in report.thresholds else None
        assert found(f"{metric}_count", **of) == (expected is not None)
        assert found(f"{metric}_sum", **of) == pytest.approx(expected or 0.0)


async def test_a_completion_that_is_cancelled_has_counted_until_then() -> None:
    told = Telemetries()
    target = tiny_llama(2, context=4096)
    async with trio(target, tiny_llama(2, context=4096, noise=0.1), TOKENIZER, telemetry=told) as services:
        call = services.stub.Complete(make_request([1], speculation=policy("fixed"), max_tokens=4000))
        for _ in range(5):
            await call.read()
        call.cancel()
        async with asyncio.timeout(20):
            while services.target_engine.load().sequences:
                await asyncio.sleep(0.01)
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_verify_steps_total") >= 3
    assert found("tandem_drafted_tokens_total") == found("tandem_verified_position_total") > 0
    assert found("tandem_requests_total", outcome="cancelled") == 1


async def test_without_speculation_there_are_times_and_no_rounds() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        answer = await services.complete([1, 2], policy=OFF, max_tokens=30)
    found = Reading.of(told.orchestrator.metrics)
    seconds = answer.finish.speculation.time.rounds_microseconds / 1e6
    assert found("tandem_round_seconds_total", stop_rule="off") == pytest.approx(seconds, rel=0.01)
    assert found("tandem_round_duration_seconds_count") == found("tandem_verify_steps_total") == 0
    assert found("tandem_fallback_tokens_total") == 0
    assert found("tandem_time_to_first_token_seconds_count", stop_rule="off", accept_rule="off") == 1


class _Halting:
    """A stop rule that lets the target go on alone for three tokens after every block."""

    name = "goodput"
    options = ()

    def __init__(self) -> None:
        self._drafts = True

    def limits(self) -> Limits:
        self._drafts = not self._drafts
        return Limits(0, alone_tokens=3) if self._drafts else Limits(2)

    def update(self, outcome: object) -> None:
        """Nothing is learnt."""

    def thresholds(self) -> dict[str, float]:
        return {}


async def test_tokens_that_were_not_worth_a_draft_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stopping.RULES, "goodput", _Halting)
    told = Telemetries()
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        answer = await services.complete([1, 2], policy=policy("goodput"), max_tokens=31)
    found = Reading.of(told.orchestrator.metrics)
    alone = answer.finish.speculation.plain_tokens
    assert alone > 10
    # The completion's first token is the target's whatever the rule; so is one for which there was no room to draft.
    assert alone - 2 <= found("tandem_fallback_tokens_total", reason="not_worth") <= alone - 1
    assert found.labels("reason") == {"not_worth"}


async def test_all_tokens_of_a_completion_without_a_draft_are_counted() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), None, TOKENIZER, telemetry=told) as services:
        await services.complete([1, 2], policy=policy("fixed"), max_tokens=20)
        await services.complete([1, 2], policy=OFF, max_tokens=20)  # asked for none
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_fallback_tokens_total", reason="no_draft") == found("tandem_fallback_tokens_total") == 20
    assert found("tandem_verify_steps_total") == 0


async def test_a_draft_that_is_lost_is_told_and_what_follows_is_counted() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        tokens, finish = 0, None
        async for response in services.stub.Complete(
            make_request([1, 2], speculation=policy("fixed"), max_tokens=200), timeout=60.0
        ):
            if not tokens:
                assert services.draft is not None
                services.draft.grace_seconds = 0
                await services.draft.drain()
            tokens += len(response.token_ids)
            finish = response.finish
    assert finish is not None and finish.speculation.draft_failures == 1
    found = Reading.of(told.orchestrator.metrics)
    plain = finish.speculation.plain_tokens
    assert found("tandem_fallback_tokens_total", reason="no_draft") == plain - 1 > 0
    assert found("tandem_upstream_errors_total", service="draft") == found("tandem_draft_failures_total") == 1


async def test_a_drafter_that_has_no_proposal_has_not_failed() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), PromptLookupDrafter(), TOKENIZER, telemetry=told) as services:
        await services.complete([5, 6, 7], policy=policy("fixed"), max_tokens=40)
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_fallback_tokens_total") == found("tandem_upstream_errors_total") == 0


async def test_exchanges_are_timed_by_what_was_said() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), tiny_llama(2, noise=0.1), TOKENIZER, telemetry=told) as services:
        report = (await services.complete([1, 2], policy=policy("fixed"), max_tokens=40)).finish.speculation
        await services.complete([1, 2], policy=OFF, max_tokens=5)
        await services.completions.load()
    found = Reading.of(told.orchestrator.metrics)

    def count(service: str, method: str) -> float:
        return found("tandem_upstream_seconds_count", service=service, method=method)

    assert report.verify_steps <= count("draft", "Draft.round") <= report.verify_steps + 1
    assert count("target", "Verify.round") >= report.verify_steps + 1
    assert (count("target", "Verify.open"), count("target", "Verify.generate")) == (2, 1)
    # Replicas are asked again and again.
    assert count("target", "GetTargetModel") >= 1 <= count("draft", "GetDraftModel")
    assert count("target", "GetTargetLoad") >= 1 <= count("draft", "GetDraftLoad")
    assert 0 < found("tandem_upstream_seconds_sum") < 60 and found("tandem_upstream_errors_total") == 0


async def test_a_target_that_is_gone_and_a_draft_that_is_silent_have_their_reasons() -> None:
    told = Telemetries()
    async with trio(
        tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told, connect_timeout_seconds=0.5,
        draft_timeout_seconds=0.0001, target_patience_seconds=1.0,
    ) as services:  # fmt: skip
        await services.complete([1, 2], policy=policy("fixed"), max_tokens=10)
        call = services.stub.Complete(make_request([1], speculation=OFF, max_tokens=400))
        await call.read()
        await services.target._stop(None)  # as the death of a process
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        await services.refusal(make_request([1], max_tokens=3))
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_upstream_errors_total", service="draft", reason="timeout") == 1
    assert found("tandem_upstream_errors_total", service="target", reason="target_unavailable") == 1
    # That nobody answers is a matter of the replicas.
    assert found("tandem_upstream_errors_total", service="target") == 1
    assert found("tandem_requests_total", outcome="target_unavailable") == 2


async def test_models_that_it_works_with_are_told_once_each() -> None:
    told = Telemetries()
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        for _ in range(2):
            await services.complete([1], policy=policy("fixed"), max_tokens=3)
        found = Reading.of(told.orchestrator.metrics)
        assert found("tandem_model_info", service="target", model_id="tiny", dtype="float32") == 1
        assert found("tandem_model_info", service="draft", model_id="tiny-draft") == 1
        # One that comes back as something else takes the place of what it was.
        other = completion_pb2.GetModelsResponse(target={"model_id": "other"}).target
        told.orchestrator.works_with("target", other)
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_model_info", service="target") == found("tandem_model_info", model_id="other") == 1


async def test_full_rows_and_their_exchanges_are_counted() -> None:
    told, rows = Telemetries(), 0
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.12), TOKENIZER, telemetry=told, bracket_entries=8) as services:
        for prompt in ([1, 2], [3, 4], [5, 6]):
            chosen = policy("fixed", "jsd", threshold=0.4)
            rows += (await services.complete(prompt, policy=chosen, max_tokens=150)).finish.speculation.full_rows
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_full_row_fetches_total") == rows > 0
    asked = found("tandem_upstream_seconds_count", service="draft", method="Draft.rows")
    assert 0 < asked == found("tandem_upstream_seconds_count", service="target", method="Verify.resolve") <= rows


async def test_where_nobody_can_read_them_rounds_are_not_noted() -> None:
    told = Telemetries(orchestrator=Telemetry(is_read=False))
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, telemetry=told) as services:
        answer = await services.complete([1, 2], policy=policy("fixed"), max_tokens=20)
    assert answer.finish.speculation.verify_steps > 0
    found = Reading.of(told.orchestrator.metrics)
    assert found("tandem_verify_steps_total") == found("tandem_upstream_seconds_count") == 0
