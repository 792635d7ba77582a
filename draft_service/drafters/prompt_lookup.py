"""Prompt look-up: copies what followed the last tokens where they occurred before. No weights, no compute.

The idea is Saxena's prompt lookup decoding (2023), transformers' `prompt_lookup_num_tokens`. A candidate's q is a
point mass, so every exact rule stays exact: it accepts x with probability p(x) and corrects from p without x.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from draft_service.drafters.base import Ahead, Candidates, Counts, DraftSequence, SequenceSpec, no_rows
from tandem.block_limits import Limiter
from tandem.distributions import CompressedRow
from tandem.inference.engine import EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.v1 import block_pb2, draft_pb2, model_pb2

_LONGEST = 3
# Tokens that are looked at while others wait: some milliseconds.
_MOST_AT_ONCE = 4096
_POINT_MASS = torch.zeros(1, dtype=torch.float16)


class PromptLookupDrafter:
    """Drafts from the text itself; works with any target."""

    def __init__(self) -> None:
        self.info = model_pb2.ModelInfo(model_id="prompt-lookup")
        self.counts = Counts()
        self._open = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        self._open += 1
        return PromptLookupSequence(self, spec)

    def load(self) -> EngineLoad:
        return EngineLoad(self._open, waiting=0, cache_bytes=0, cache_capacity_bytes=0, preemptions=0)

    def observe(self, observer: EngineObserver) -> None:
        """There are no steps."""

    async def close(self) -> None:
        """Nothing to close."""

    def closed(self) -> None:
        self._open -= 1


class PromptLookupSequence:
    """Keeps, for every run of 1 to 3 tokens, where it ended last; each token is looked at once."""

    def __init__(self, owner: PromptLookupDrafter, spec: SequenceSpec) -> None:
        self._owner = owner
        self._spec = spec
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0  # tokens whose runs, as far as something follows them, are in `_ends`

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        started = time.perf_counter()
        if len(tokens) - self._indexed > _MOST_AT_ONCE:
            await asyncio.to_thread(self._index, tokens)  # others are served meanwhile
        else:
            self._index(tokens)
        block, limiter = Candidates(stop=draft_pb2.DRAFT_STOP_NO_PROPOSAL), Limiter(limits)
        for token in self._continuation(tokens, limits.max_tokens):
            block.token_ids.append(token)
            block.log_probabilities.append(0.0)
            block.entropies.append(0.0)
            if self._spec.max_entries:
                block.rows.append(CompressedRow(torch.tensor([token]), _POINT_MASS, 0.0))
            stop = limiter.after(0.0, 0.0)
            if token in self._spec.stop_token_ids:
                stop = draft_pb2.DRAFT_STOP_END_TOKEN
            if stop is not None:
                block.stop = stop
                break
        else:
            if len(block.token_ids) == limits.max_tokens:
                block.stop = draft_pb2.DRAFT_STOP_MAX_TOKENS
        block.timing = block_pb2.Timing(compute_microseconds=round((time.perf_counter() - started) * 1e6))
        return block

    def _index(self, tokens: Sequence[int]) -> None:
        for end in range(max(self._indexed, 1), len(tokens)):
            for size in range(1, min(_LONGEST, end) + 1):
                self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = len(tokens)

    def _continuation(self, tokens: Sequence[int], length: int) -> Sequence[int]:
        for size in range(min(_LONGEST, len(tokens) - 1), 0, -1):
            end = self._ends.get(tuple(tokens[-size:]))
            if end is not None:
                return tokens[end : end + length]
        return ()

    # It takes no time to be asked, so nothing is drafted ahead.

    def look_ahead(
        self,
        tokens: Sequence[int],
        round_number: int,
        plan: draft_pb2.LookAhead,
        grown: Callable[[], None],
    ) -> None:
        """Drafts nothing."""

    def ahead(self) -> Sequence[Ahead]:
        return ()

    def freeze_ahead(self) -> None:
        """There is nothing."""

    def foreseen(self, position: int, token: int) -> int | None:
        return None

    def take(self, position: int, token: int, used: int, tokens: Sequence[int]) -> list[int]:
        raise ValueError("no such block was sent")

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        raise no_rows()

    async def close(self) -> None:
        self._owner.closed()
