"""What drafters have in common that have no model: they read the text, and what follows is looked up.

No weights and no vocabulary, so they work with any target. Each candidate comes with the law that it was drawn from, a
point mass where it was copied, so every exact rule stays exact.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from draft_service.drafters.base import Candidates, Counts, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Drawn
from draft_service.drafters.growth import candidates
from draft_service.drafters.no_ahead import NothingAhead
from tandem.block_limits import Limiter
from tandem.distributions import CompressedRow
from tandem.inference.engine import EngineLoad
from tandem.inference.observer import EngineObserver
from tandem.v1 import block_pb2, draft_pb2, model_pb2

# Tokens that are looked at while others wait: some milliseconds.
_MOST_AT_ONCE = 2048
_POINT_MASS = torch.zeros(1, dtype=torch.float16)


class ReadingDrafter:
    """One for a service; a subclass makes its sequences. target_entries: see `base.Drafter`."""

    def __init__(self, name: str, target_entries: int = 0) -> None:
        self.info = model_pb2.ModelInfo(model_id=name)
        self.counts = Counts()
        self.target_entries = target_entries
        self._open = 0

    def _sequence(self, spec: SequenceSpec) -> DraftSequence:
        raise NotImplementedError

    async def start(self) -> None:
        """Nothing to start."""

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        self._open += 1
        return self._sequence(spec)

    def load(self) -> EngineLoad:
        return EngineLoad(self._open, waiting=0, cache_bytes=0, cache_capacity_bytes=0, preemptions=0)

    def observe(self, observer: EngineObserver) -> None:
        """There are no steps."""

    async def close(self) -> None:
        """Nothing to close."""

    def closed(self) -> None:
        self._open -= 1


class ReadingSequence(NothingAhead):
    """One text; each of its tokens is looked at once, where none is taken back. A subclass takes them in and
    proposes."""

    def __init__(self, owner: ReadingDrafter, spec: SequenceSpec) -> None:
        self._owner = owner
        self._spec = spec
        self._read = 0  # tokens that have been looked at

    def _take_in(self, tokens: Sequence[int], read: int) -> None:
        """Looks at a text of which it has seen the first `read` tokens. On any thread, one at a time."""
        raise NotImplementedError

    def _forget(self) -> None:
        """What it knows by places in the text."""

    def _propose(self, tokens: Sequence[int], round_number: int, most: int) -> Iterator[Drawn]:
        """Up to `most` candidates, one after the other; ends where it has nothing to say. Whether it does may depend on
        the candidates before and on laws, never on a candidate itself."""
        raise NotImplementedError

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
        if cached < self._read:  # some of what it has seen was taken back
            self._forget()
            self._read = 0
        if len(tokens) - self._read > _MOST_AT_ONCE:
            await asyncio.to_thread(self._take_in, tokens, self._read)  # others are served meanwhile
        else:
            self._take_in(tokens, self._read)
        self._read = len(tokens)
        block = self._block(tokens, round_number, limits)
        block.timing = block_pb2.Timing(compute_microseconds=round((time.perf_counter() - started) * 1e6))
        return block

    def _block(self, tokens: Sequence[int], round_number: int, limits: draft_pb2.DraftLimits) -> Candidates:
        limiter, found, most = Limiter(limits), list[Drawn](), limits.max_tokens
        if not most:
            return candidates(found, draft_pb2.DRAFT_STOP_MAX_TOKENS)
        for drawn in self._propose(tokens, round_number, most):
            if limiter.refuses(drawn.entropy):
                return candidates(found, draft_pb2.DRAFT_STOP_ENTROPY_BEFORE)
            found.append(drawn)
            stop = limiter.after(drawn.entropy, drawn.log_probability)
            if drawn.token_id in self._spec.stop_token_ids:
                return candidates(found, draft_pb2.DRAFT_STOP_END_TOKEN)
            if stop is not None:
                return candidates(found, stop)
            if len(found) == most:
                return candidates(found, draft_pb2.DRAFT_STOP_MAX_TOKENS)
        return candidates(found, draft_pb2.DRAFT_STOP_NO_PROPOSAL)

    def copied(self, token: int) -> Drawn:
        """A candidate that is certain: its law has nothing else."""
        row = CompressedRow(torch.tensor([token]), _POINT_MASS, 0.0) if self._spec.max_entries else None
        return Drawn(token, 0.0, 0.0, row, None)

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Learns nothing from it."""

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        raise no_rows()

    async def close(self) -> None:
        self._owner.closed()
