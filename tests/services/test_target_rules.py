"""Lossy rules that look at the target's own numbers, and rules by name, over gRPC with real models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from orchestrator import acceptance, stopping
from orchestrator.acceptance import Judgement, Position, RatioTest
from orchestrator.acceptance.lossless import keep
from orchestrator.options import Option
from orchestrator.stopping import Limits, RoundOutcome
from tandem.v1 import completion_pb2, policy_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [1, 2]
#: With what makes each rule act often on these models.
RULES = {
    "fly": {"window": 1, "max_tokens": 5},
    "consultant": {"max_tokens": 5},
    "typical": {"max_tokens": 5},
    "tolerance": {"tolerance": 1.0, "max_tokens": 5},
}
LET_THROUGH = completion_pb2.TokenSource.TOKEN_SOURCE_DRAFT_ACCEPTED


@pytest.fixture
async def services():
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.15), TOKENIZER) as running:
        yield running


@pytest.mark.parametrize("accept", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_what_is_let_through_is_counted_charged_and_bounded(
    services: Trio, accept: str, temperature: float
) -> None:
    async def ask(budget: float | None):
        return await services.complete(
            PROMPT, policy=policy("fixed", accept, **RULES[accept], lossy_budget=budget), max_tokens=60,
            sampling={"temperature": temperature, "seed": 3}, audit=True,
        )  # fmt: skip

    found = await ask(None)
    free, acts = found.finish.speculation, temperature > 0 or accept != "tolerance"
    sources = [token.source for token in found.tokens]
    assert free.accept_rule == accept and free.lossy == acts
    assert free.lossy_tokens == sources.count(LET_THROUGH) and (free.lossy_tokens > 0) == acts
    assert free.lossy_charge == free.lossy_tokens if temperature == 0 else free.lossy_charge > 0
    bounded = (await ask(1.0)).finish.speculation
    assert bounded.lossy_charge <= 1.0
    nothing = await ask(0.0)
    length = RULES[accept]["max_tokens"]
    exact = await services.complete(
        PROMPT, policy=policy("fixed", "ratio", max_tokens=length), max_tokens=60,
        sampling={"temperature": temperature, "seed": 3},
    )  # fmt: skip
    assert nothing.token_ids == exact.token_ids and not nothing.finish.speculation.lossy


async def test_each_token_that_typical_acceptance_lets_through_passes_its_test(services: Trio) -> None:
    """p and H of the audit are those of the token's place; at temperature 0 the guard asks for p as well."""
    found = await services.complete(PROMPT, policy=policy("fixed", "typical"), max_tokens=80, audit=True)
    through = [token for token in found.tokens if token.source == LET_THROUGH]
    assert len(through) > 5
    for token in through:
        least = min(0.09, 0.3 * math.exp(-token.target_entropy))
        assert math.exp(token.target_log_probability) > least


@pytest.mark.parametrize("accept", ["fly", "consultant", "typical"])
async def test_they_act_on_what_was_looked_up_in_the_text(accept: str) -> None:
    """Of which they need no distribution."""
    async with trio(tiny_llama(2), PromptLookupDrafter(), TOKENIZER) as services:
        rules = policy("fixed", accept, **RULES[accept])
        report = (await services.complete([5, 6, 7] * 4, policy=rules, max_tokens=100)).finish.speculation
    assert report.lossy_tokens == report.lossy_charge > 0


@pytest.mark.parametrize("accept", RULES)
async def test_what_the_request_forbids_is_not_let_through(services: Trio, accept: str) -> None:
    """Under top-k of 2 the draft's two tokens are often not the target's: p of those is 0."""
    sampling = {"temperature": 1.0, "seed": 5, "top_k": 2}
    found = await services.complete(
        PROMPT, policy=policy("fixed", accept, **RULES[accept]), max_tokens=40, sampling=sampling, audit=True
    )
    assert found.finish.speculation.drafted_tokens > 0
    assert all(math.isfinite(token.target_log_probability) for token in found.tokens)


class Pairs:
    """A stop rule that the contract does not know."""

    name = "toy-pairs"
    options = (Option("pairs", least=1, most=9, kind=int),)

    def __init__(self, max_tokens: int = 18, pairs: int = 1) -> None:
        self._limits = Limits(max_tokens=min(2 * pairs, max_tokens))
        self.rounds = 0

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None:
        self.rounds += outcome.drafted > 0

    def thresholds(self) -> dict[str, float]:
        return {"rounds": float(self.rounds)}


class AtMost(RatioTest):
    """An accept rule that the contract does not know: never more than so many candidates of a block. Lossless at
    temperature 0, where the correction is the target's own token whatever the candidate."""

    name = "toy-at-most"
    options = (Option("most", least=0, kind=int),)

    def __init__(self, *, greedy: bool, most: int = 1) -> None:
        super().__init__(greedy=greedy)
        self._most = most

    def judge(self, block: Sequence[Position]) -> Judgement:
        judged = super().judge(block)
        return keep(block, self._most) if judged.kept > self._most else judged


async def test_a_rule_that_the_contract_does_not_know_drives_a_completion(
    services: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stopping.RULES, Pairs.name, Pairs)
    monkeypatch.setitem(acceptance.RULES, AtMost.name, AtMost)
    named = policy_pb2.NamedRule
    rules = policy_pb2.SpeculationPolicy(
        stop=policy_pb2.StopPolicy(named=named(name="toy-pairs", options={"pairs": 2})),
        accept=policy_pb2.AcceptPolicy(named=named(name="toy-at-most", options={"most": 3})),
    )
    alone = await services.complete(PROMPT, max_tokens=40)
    found = await services.complete(PROMPT, policy=rules, max_tokens=40)
    report = found.finish.speculation
    assert found.token_ids == alone.token_ids
    assert (report.stop_rule, report.accept_rule) == ("toy-pairs", "toy-at-most")
    assert report.thresholds["rounds"] == report.verify_steps > 0
    assert len(report.accepted_at) == 4 and report.accepted_at[2] > 0 == report.accepted_at[3]


async def test_an_unknown_rule_is_refused_with_those_that_there_are(services: Trio) -> None:
    for field in ("stop", "accept"):
        asked = make_request(PROMPT)
        getattr(asked.speculation, field).named.name = "toy-pairs"
        refused = await services.refusal(asked)
        assert (refused.reason, refused.field) == ("INVALID_FIELD", f"speculation.{field}.named.name")
        assert f"no {field} rule 'toy-pairs'; there are " in refused.message

