"""The target may go on alone between blocks, for as long as a stop rule says, and nothing changes but the cost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from orchestrator import stopping
from orchestrator.stopping import Limits, RoundOutcome
from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, trio

TOKENIZER = byte_tokenizer(64)
PLAN = st.lists(st.tuples(st.booleans(), st.integers(1, 7)), min_size=1, max_size=8).filter(
    lambda plan: any(drafts for drafts, _ in plan)
)


class Scripted:
    """Follows a plan, again and again: (whether to draft, how many)."""

    name = "goodput"

    def __init__(self, plan: Sequence[tuple[bool, int]]) -> None:
        self._plan = itertools.cycle(plan)
        self.outcomes: list[RoundOutcome] = []

    def limits(self) -> Limits:
        drafts, count = next(self._plan)
        return Limits(count) if drafts else Limits(0, alone_tokens=count)

    def update(self, outcome: RoundOutcome) -> None:
        self.outcomes.append(outcome)

    def thresholds(self) -> dict[str, float]:
        return {}


def scripted(monkeypatch: pytest.MonkeyPatch, plan: Sequence[tuple[bool, int]]) -> Scripted:
    """Takes the place of the goodput rule."""
    rule = Scripted(plan)

    class Always:
        options = ()

        def __new__(cls) -> Scripted:
            return rule

    monkeypatch.setitem(stopping.RULES, "goodput", Always)
    return rule


@settings(max_examples=15, deadline=None)
@given(plan=PLAN, noise=st.sampled_from([0.0, 0.05, 0.4]), temperature=st.sampled_from([0.0, 1.0]))
def test_the_text_is_the_same_whenever_the_target_goes_alone(
    plan: list[tuple[bool, int]], noise: float, temperature: float
) -> None:
    async def check() -> None:
        sampling = {"temperature": temperature, "seed": 5}
        with pytest.MonkeyPatch.context() as patch:
            rule = scripted(patch, plan)
            async with trio(tiny_llama(2), tiny_llama(2, noise=noise), TOKENIZER) as services:
                alone = await services.complete([1, 2, 3], max_tokens=40, sampling=sampling)
                found = await services.complete(
                    [1, 2, 3], policy=policy("goodput", "coupled"), max_tokens=40, sampling=sampling
                )
        assert found.token_ids == alone.token_ids
        report = found.finish.speculation
        assert report.draft_failures == 0 and report.verify_steps > 0
        assert report.plain_tokens + report.accepted_tokens + report.verify_steps >= 40
        assert sum(outcome.drafted > 0 for outcome in rule.outcomes) == report.verify_steps

    asyncio.run(check())


@pytest.mark.parametrize("accept", ["ratio", "block", "adasd"])
async def test_every_rule_survives_going_alone(accept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = scripted(monkeypatch, [(True, 4), (False, 3), (False, 1), (True, 2)])
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER, bracket_entries=65536) as services:
        found = await services.complete(
            [1, 2, 3], policy=policy("goodput", accept), max_tokens=50, sampling={"temperature": 0.8, "seed": 1}
        )
    report = found.finish.speculation
    assert len(found.token_ids) == 50 and report.draft_failures == 0
    # The draft is the target: what is drafted is accepted, so it was told of every token, also of those without it.
    assert report.accepted_tokens == report.drafted_tokens > 10
    assert all(outcome.acceptances == pytest.approx([1.0] * outcome.accepted, abs=0.01) for outcome in rule.outcomes)


async def test_a_drafter_without_a_proposal_is_told_of_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [(True, 4), (False, 2)])
    async with trio(tiny_llama(2), PromptLookupDrafter(), TOKENIZER) as services:
        alone = await services.complete([5, 6, 7], max_tokens=40)
        found = await services.complete([5, 6, 7], policy=policy("goodput"), max_tokens=40)
    assert found.token_ids == alone.token_ids and found.finish.speculation.draft_failures == 0


async def test_costs_say_who_shared_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = scripted(monkeypatch, [(True, 3), (False, 2)])
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER) as services:
        await services.complete([1, 2, 3], policy=policy("goodput"), max_tokens=30)
    for outcome in rule.outcomes:
        costs = outcome.costs
        assert costs is not None and costs.target_seconds > 0 and costs.other_seconds >= 0
        assert costs.target_sequences == 1
        # A block's step takes in the token before it, too.
        assert costs.target_tokens in ((outcome.drafted + 1,) if outcome.drafted else (1, 2))
        assert costs.draft_steps == outcome.drafted or outcome.drafted == 0


async def test_sessions_under_way_are_counted_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[stopping.Experience] = []

    class Remembering(stopping.FixedLength, stopping.LearnsTogether):
        def __init__(self, experience: stopping.Experience, key: object) -> None:
            assert isinstance(experience, stopping.Experience)
            seen.append(experience)
            super().__init__(2)

    monkeypatch.setitem(stopping.RULES, "goodput", Remembering)
    async with trio(tiny_llama(2), tiny_llama(2), TOKENIZER) as services:
        asked = [services.complete([1, 2, 3], policy=policy("goodput"), max_tokens=20) for _ in range(3)]
        await asyncio.gather(*asked)
        assert len(seen) == 3 and len({id(each.costs) for each in seen}) == 1
        assert seen[0].costs.sessions == 0


async def test_an_audit_accounts_for_every_round() -> None:
    async with trio(tiny_llama(2), tiny_llama(2, noise=0.1), TOKENIZER) as services:
        request = completion_pb2.CompleteRequest(
            tokens=completion_pb2.TokenIds(ids=[1, 2, 3]), max_tokens=40, audit=True,
            speculation=policy("adasd", "adasd"),
        )  # fmt: skip
        rounds, tokens, finish = [], [], completion_pb2.Finish()
        async for response in services.stub.Complete(request, timeout=60.0):
            tokens += response.tokens
            if response.HasField("round"):
                rounds.append(response.round)
                kept = [token for token in response.tokens if token.round == response.round.round]
                assert len(kept) <= response.round.kept + 1
            if response.HasField("finish"):
                finish = response.finish
        report = finish.speculation
        assert len(rounds) == report.verify_steps
        assert sum(each.drafted for each in rounds) == report.drafted_tokens
        assert sum(each.kept for each in rounds) == report.accepted_tokens
        for each in rounds:
            of_draft = each.draft_entropies, each.draft_log_probabilities
            columns = (*of_draft, each.acceptance_probabilities, each.distances)
            assert {len(column) for column in columns} == {each.drafted}
            assert each.time.target_compute_microseconds > 0 and each.time.draft_compute_microseconds > 0
        assert "entropy" not in rounds[0].thresholds and rounds[-1].thresholds["entropy"] > 0


async def test_without_an_audit_no_round_is_accounted_for() -> None:
    async with trio(tiny_llama(2), tiny_llama(2, noise=0.1), TOKENIZER) as services:
        request = completion_pb2.CompleteRequest(tokens=completion_pb2.TokenIds(ids=[1, 2]), max_tokens=20)
        async for response in services.stub.Complete(request, timeout=60.0):
            assert not response.HasField("round")
            if response.HasField("finish"):
                time = response.finish.speculation.time
                parts = sum(getattr(time.rounds, part.name) for part in time.rounds.DESCRIPTOR.fields)
                assert parts == pytest.approx(time.rounds_microseconds, rel=0.01, abs=20)
