"""Several drafters behind one another: each block is the one that its part would have drafted alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from draft_service.drafters.base import Candidates, Drafter, SequenceSpec
from draft_service.drafters.combined import CombinedDrafter
from draft_service.drafters.model import ModelDrafter
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from draft_service.drafters.stand import StandDrafter
from draft_service.drafters.suffix import SuffixDrafter
from tandem.v1 import draft_pb2
from tests.support.drafters import make
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 5, 6, 5]
SAMPLED = {"temperature": 0.4, "seed": 4}


@dataclass
class Drew:
    """A block of one part. index: of that part. asked: what it was asked with, but for the cache."""

    index: int
    tokens: list[int]
    asked: tuple[int, draft_pb2.DraftLimits]
    block: Candidates


@dataclass
class Watched:
    """A part whose blocks are noted."""

    part: Drafter
    index: int
    blocks: list[Drew]

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
        block = await self._inner.draft(tokens, cached, round_number, limits)
        if block.token_ids:
            self._owner.blocks.append(Drew(self._owner.index, list(tokens), (round_number, limits), block))
        return block


# So that each has its turns.
PARTS: dict[str, Callable[[], Drafter]] = {
    "prompt-lookup": lambda: PromptLookupDrafter(least=3),
    "suffix": lambda: SuffixDrafter(least=2),
    "stand": StandDrafter,
    "model": lambda: make("model", tiny_llama(2, noise=0.2), TOKENIZER),
}


@pytest.mark.parametrize(
    ("accept", "sampling"),
    [("exact", {"repetition_penalty": 1.2}), ("ratio", SAMPLED), ("coupled", SAMPLED), ("adasd", {})],
)
@pytest.mark.parametrize("order", [("stand", "model"), ("suffix", "model"), ("prompt-lookup", "stand", "model")])
async def test_a_block_is_the_one_that_its_part_would_draft_alone(
    order: tuple[str, ...], accept: str, sampling: dict[str, float]
) -> None:
    """The model's cache and its text stay right through rounds in which others drafted: what it drafts is what it would
    draft of that text from scratch."""
    blocks: list[Drew] = []
    specs: list[SequenceSpec] = []
    parts = [PARTS[name]() for name in order]
    combined = CombinedDrafter([Watched(part, index, blocks) for index, part in enumerate(parts)])
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
        drew = [each.index for each in blocks]
        assert sum(one != own == other for one, other in zip(drew, drew[1:], strict=False)) >= 2, drew
        model = parts[own]
        assert isinstance(model, ModelDrafter)
        for each in [each for each in blocks if each.index == own]:
            fresh = await model.open(replace(specs[0], tokens=tuple(each.tokens)))
            alone = await fresh.draft(each.tokens, len(each.tokens) - 1, *each.asked)
            await fresh.close()
            assert alone.token_ids == each.block.token_ids
            # What is sent under ratio rules is rounded to half precision.
            torch.testing.assert_close(alone.log_probabilities, each.block.log_probabilities, rtol=1e-3, atol=1e-3)
            assert [row.token_ids.tolist() for row in alone.rows] == [row.token_ids.tolist() for row in each.block.rows]


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
