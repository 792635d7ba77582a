"""Every drafter, alone and behind others, through the three services: texts and laws are the target's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch

from draft_service.drafters.base import Candidates, Drafter, SequenceSpec
from draft_service.drafters.combined import CombinedDrafter
from draft_service.drafters.model import ModelDrafter
from draft_service.drafters.reading import ReadingSequence
from draft_service.drafters.stand import StandDrafter, StandSequence
from orchestrator import stopping
from orchestrator.stopping import Limits
from tandem.distributions import CompressedRow, law
from tandem.inference.runner import Block, ModelRunner
from tandem.v1 import draft_pb2, grammar_pb2
from tests.support.drafters import NAMES, make
from tests.support.pair_law import VOCABULARY as FEW
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 5, 6, 5]
SAMPLED = {"temperature": 0.4, "seed": 4}


@pytest.mark.parametrize("name", NAMES)
async def test_greedy_and_coupled_texts_are_the_targets(name: str) -> None:
    asked: list[dict[str, Any]] = [{"max_tokens": 90}, {"max_tokens": 60, "sampling": SAMPLED}]
    rules = [[policy("fixed", "exact"), policy("adasd", "ratio")], [policy("fixed", "coupled")]]
    async with trio(tiny_llama(2), make(name, tiny_llama(2, noise=0.1), TOKENIZER), TOKENIZER) as services:
        for wanted, policies in zip(asked, rules, strict=True):
            alone = await services.complete(PROMPT, **wanted)
            for each in policies:
                found = await services.complete(PROMPT, policy=each, **wanted)
                report = found.finish.speculation
                assert found.token_ids == alone.token_ids
                assert report.draft_failures == 0 and report.accepted_tokens > 0 and not report.lossy


@pytest.mark.parametrize(("name", "accept"), [("stand", "ratio"), ("suffix+stand+model", "block")])
async def test_lossless_in_distribution_over_grpc(name: str, accept: str) -> None:
    """Those that learn share what they have learnt: a completion of four tokens would end before it is of use. What the
    law of a text is given all that others have taught them is the target's own."""
    tokenizer = byte_tokenizer(FEW)
    reports = await check_pair_law(
        policy("fixed", accept, max_tokens=3),
        samples=400,
        max_tokens=5,
        drafter=lambda model: make(name, model, tokenizer, share_ngrams="stand" in name),
    )
    assert sum(report.drafted_tokens for report in reports) > 300
    assert sum(report.accepted_tokens for report in reports) > 50


async def test_lossy_rules_work_on_laws_without_a_tail() -> None:
    """No full rows are to be had, and none are asked for."""
    for name in ("suffix", "stand", "stand+model"):
        async with trio(tiny_llama(2), make(name, tiny_llama(2, noise=0.1), TOKENIZER), TOKENIZER) as services:
            for sampling in ({}, SAMPLED):
                found = await services.complete(
                    PROMPT, policy=policy("adasd", "adasd"), max_tokens=60, sampling=sampling
                )
                assert len(found.token_ids) == 60 and found.finish.speculation.draft_failures == 0


async def test_a_text_follows_its_grammar_whatever_drafts() -> None:
    grammar = grammar_pb2.Grammar(regex="(!#!$)+")
    asked = {"max_tokens": 40, "sampling": {"temperature": 5.0, "seed": 1}, "grammar": grammar}
    for name in ("suffix", "stand+model", "suffix+model"):
        async with trio(tiny_llama(3), make(name, tiny_llama(3, noise=0.1), TOKENIZER), TOKENIZER) as services:
            alone = await services.complete([1, 2], policy=OFF, **asked)
            found = await services.complete([1, 2], policy=policy("fixed", "coupled"), **asked)
            assert found.token_ids == alone.token_ids and found.finish.speculation.accepted_tokens > 0


# What a combined drafter's parts draw.


@dataclass
class Drew:
    """A block of one part. index: of that part."""

    index: int
    tokens: list[int]
    round_number: int
    block: Candidates


@dataclass
class Watched:
    """A part whose blocks are noted, and which is silent when it is told to be."""

    part: Drafter
    index: int
    blocks: list[Drew]
    silent: Callable[[int], bool]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)

    async def open(self, spec: SequenceSpec) -> Any:
        return _WatchedSequence(self, await self.part.open(spec))


class _WatchedSequence:
    def __init__(self, owner: Watched, inner: Any) -> None:
        self._owner, self._inner = owner, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        if self._owner.silent(round_number):
            return Candidates(stop=draft_pb2.DRAFT_STOP_NO_PROPOSAL)
        block = await self._inner.draft(tokens, cached, round_number, limits)
        if block.token_ids:
            self._owner.blocks.append(Drew(self._owner.index, list(tokens), round_number, block))
        return block


@pytest.mark.parametrize(
    ("accept", "sampling"),
    [("exact", {"repetition_penalty": 1.2}), ("ratio", SAMPLED), ("coupled", SAMPLED), ("adasd", {})],
)
@pytest.mark.parametrize("order", [("stand", "model"), ("model", "suffix"), ("suffix", "stand", "model")])
async def test_a_block_is_the_one_that_its_part_would_draft_alone(
    order: tuple[str, ...], accept: str, sampling: dict[str, float]
) -> None:
    """The model's cache and its text stay right through rounds in which others drafted: what it drafts is what it would
    draft of that text from scratch."""
    blocks: list[Drew] = []
    specs: list[SequenceSpec] = []
    parts = [make(name, tiny_llama(2, noise=0.2), TOKENIZER) for name in order]
    # The model is silent in half of the rounds where it comes first.
    watched = [
        Watched(part, index, blocks, _now_and_then if index == 0 and order[0] == "model" else _never)
        for index, part in enumerate(parts)
    ]
    combined = CombinedDrafter(watched)
    opened = combined.open

    async def noted(spec: SequenceSpec) -> Any:
        specs.append(spec)
        return await opened(spec)

    combined.open = noted  # type: ignore[method-assign]
    async with trio(tiny_llama(2), combined, TOKENIZER, bracket_entries=8) as services:
        found = await services.complete(
            PROMPT, policy=policy("fixed", accept, max_tokens=4), max_tokens=120, sampling=sampling
        )
        assert len(found.token_ids) == 120 and found.finish.speculation.draft_failures == 0
        own = order.index("model")
        changes = sum(one.index != other.index for one, other in zip(blocks, blocks[1:], strict=False))
        assert changes >= 6 and len({each.index for each in blocks}) == len(order)
        model = parts[own]
        assert isinstance(model, ModelDrafter)
        for each in [each for each in blocks if each.index == own]:
            fresh = await model.open(replace(specs[0], tokens=tuple(each.tokens)))
            limits = draft_pb2.DraftLimits(max_tokens=4)
            alone = await fresh.draft(each.tokens, len(each.tokens) - 1, each.round_number, limits)
            await fresh.close()
            assert alone.token_ids == each.block.token_ids
            torch.testing.assert_close(alone.log_probabilities, each.block.log_probabilities, rtol=0, atol=1e-4)
            assert [row.token_ids.tolist() for row in alone.rows] == [row.token_ids.tolist() for row in each.block.rows]


def _never(round_number: int) -> bool:
    return False


def _now_and_then(round_number: int) -> bool:
    return round_number % 2 == 0


async def test_a_combined_drafter_names_its_parts_and_wants_what_they_want() -> None:
    drafter = make("stand+model", tiny_llama(2), TOKENIZER)
    assert drafter.info.model_id == "stand+tiny-draft" and drafter.info.vocabulary_size == 64
    assert drafter.target_entries == 10 and make("suffix+model", tiny_llama(2), TOKENIZER).target_entries == 0
    with pytest.raises(ValueError, match="only one"):
        CombinedDrafter([make("model", tiny_llama(2), TOKENIZER) for _ in range(2)])


async def test_all_that_was_opened_is_closed() -> None:
    drafter = make("suffix+stand+model", tiny_llama(2), TOKENIZER)
    async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
        for _ in range(2):
            await services.complete(PROMPT, policy=policy("fixed"), max_tokens=20)
        for _ in range(100):
            if not any(part.load().sequences for part in drafter._parts):
                return
            await asyncio.sleep(0.02)
    raise AssertionError("a part still holds a sequence")


async def test_where_the_models_context_ends_the_others_go_on() -> None:
    drafter = make("model+suffix", tiny_llama(2, context=40), TOKENIZER)
    async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
        alone = await services.complete(PROMPT, max_tokens=150)
        found = await services.complete(PROMPT, policy=policy("fixed"), max_tokens=150)
    assert found.token_ids == alone.token_ids
    assert found.finish.speculation.drafted_tokens > 60  # more than the model has room for


# What the target says reaches the drafter that asks for it.


class Told(StandDrafter):
    """Notes what it is told: for each position, its text before and the law."""

    def __init__(self) -> None:
        super().__init__()
        self.laws: dict[tuple[int, ...], CompressedRow] = {}

    def _sequence(self, spec: SequenceSpec) -> StandSequence:
        sequence = super()._sequence(spec)
        assert isinstance(sequence, StandSequence)
        told = sequence.told

        def noted(tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
            for position, row in enumerate(laws, len(tokens) - len(laws)):
                self.laws[tuple(tokens[:position])] = row
            told(tokens, laws)

        sequence.told = noted  # type: ignore[method-assign]
        return sequence


class Sometimes:
    """Lets the target go on alone now and then."""

    name = "goodput"

    def __init__(self) -> None:
        self._round = 0

    def limits(self) -> Limits:
        self._round += 1
        return Limits(4) if self._round % 3 else Limits(0, alone_tokens=5)

    def update(self, outcome: object) -> None:
        """Nothing."""

    def thresholds(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9, "seed": 3}])
async def test_the_drafter_is_told_what_the_target_said(sampling: dict[str, float], monkeypatch: MonkeyPatch) -> None:
    """Of every token but the first, which was made before the drafter had asked, and what the last round commits: p
    after the request's chain, its ten likeliest tokens."""
    monkeypatch.setattr(stopping, "Goodput", lambda **options: Sometimes())
    drafter = Told()
    async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
        found = await services.complete(
            PROMPT, policy=policy("goodput", "exact"), max_tokens=60, sampling=sampling
        )
    text = [*PROMPT, *found.token_ids]
    assert all(list(before) == text[: len(before)] for before in drafter.laws)
    positions = sorted(map(len, drafter.laws))
    assert positions[0] == len(PROMPT) + 1 and positions == list(range(positions[0], positions[-1] + 1))
    assert positions[-1] > len(text) - 15
    runner = ModelRunner(tiny_llama(2))
    for before, row in drafter.laws.items():
        logits = runner.forward([Block(runner.open(), list(before), 1)])[0][0].double()
        p = (logits / (sampling.get("temperature") or 1)).softmax(-1)
        if top_p := sampling.get("top_p"):
            order = p.argsort(descending=True)
            p[order[1:][p[order].cumsum(0)[:-1] >= top_p]] = 0
            p /= p.sum()
        ids, shares = law(row)
        assert len(ids) == min(10, int((p > 0).sum())) and len(set(ids.tolist())) == len(ids)
        torch.testing.assert_close(shares, p[ids], rtol=5e-3, atol=1e-4)
        assert float(p[ids].min()) >= float(p.topk(10).values[-1]) - 1e-9


async def test_a_drafter_that_does_not_ask_is_told_nothing(monkeypatch: MonkeyPatch) -> None:
    def told(*_: object) -> None:
        raise AssertionError("nobody has asked for it")

    monkeypatch.setattr(ReadingSequence, "told", told)
    async with trio(tiny_llama(2), make("suffix", tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        found = await services.complete(PROMPT, policy=policy("fixed"), max_tokens=40)
    assert found.finish.speculation.draft_failures == 0 and found.finish.speculation.accepted_tokens > 0
