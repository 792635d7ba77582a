"""Many sequences that a target writes together: when one is finished, its row of the batch goes to the next.

What a batch computes depends on the works that it is given, their order and its size, and on nothing else: not on time,
nor on batches before it. So the same works give the same bytes, on the same device with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.distil.drawing import Drawn, draw_and_keep
from tandem.distil.rows import RowRunner
from tandem.inference.runner import Chunk
from tandem.inference.sequence import Sequence
from tandem.noise import NoiseStream, Purpose, uniforms
from tandem.transfers import join

# Tokens of prompts in a step: on a CPU more of them are no quicker each.
_PROMPT_TOKENS_CPU = 256
_PROMPT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Ask:
    """token_ids: at least one, to go on from. limit: most tokens to draw, at least 1. ends: tokens after which nothing
    more is drawn. temperature: to draw at. seed: of the noise."""

    token_ids: Seq[int]
    limit: int
    ends: frozenset[int]
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """token_ids: drawn, at least one, the end included. top_ids, top_log_probs: of each, as in `Drawn`."""

    token_ids: Seq[int]
    top_ids: Tensor
    top_log_probs: Tensor


#: What is to be written: gives an `Ask`, is given its `Reply`, and so on until it returns.
Work = Generator[Ask, Reply, None]


class Writer:
    """Belongs to one thread."""

    def __init__(self, runner: RowRunner, limit: int, kept: int) -> None:
        """runner: nothing else uses it. limit: most tokens of a reply. kept: entries of each distribution."""
        self._runner = runner
        size = runner.rows
        device = runner.loaded.device
        kept = min(kept, runner.loaded.vocabulary_size)
        self._top_ids = torch.empty(size, limit, kept, dtype=torch.int32, device=device)
        self._top_log_probs = torch.empty(size, limit, kept, dtype=torch.float16, device=device)
        self._prompt_tokens = _PROMPT_TOKENS_CPU if device.type == "cpu" else _PROMPT_TOKENS

    @torch.inference_mode()
    def run(self, next_work: Callable[[], Work | None]) -> Iterator[int]:
        """Carries works through; yields the tokens drawn in each step. next_work: None while there is none; asked
        whenever a row is free, and for the last time when none is left."""
        rows: list[_Row] = []
        free = list(range(self._runner.rows))[::-1]
        try:
            while True:
                while free and (work := next_work()) is not None:
                    ask = next(work, None)
                    if ask is not None:
                        row = _Row(free.pop(), work, self._runner.open())
                        self._begin(row, ask)
                        rows.append(row)
                if not rows:
                    return
                yield self._step(rows)
                for row in [row for row in rows if row.is_done and not self._go_on(row)]:
                    row.sequence.close()
                    rows.remove(row)
                    free.append(row.slot)
        finally:
            for row in rows:
                row.sequence.close()
            self._runner.cache.pool.forget_idle()

    def _begin(self, row: _Row, ask: Ask) -> None:
        """Gives the row its next text; what it begins with that is in the cache is not computed again."""
        length, most = self._runner.row_length, self._top_ids.shape[1]
        if not 0 < len(ask.token_ids) <= length - ask.limit or not 0 < ask.limit <= most:
            raise ValueError(f"{len(ask.token_ids)} tokens and {ask.limit} more do not fit a row of {length}")
        sequence = row.sequence
        # One token at least has to be run, for its logits.
        sequence.truncate(min(_common(sequence.tokens, ask.token_ids), sequence.cached, len(ask.token_ids) - 1))
        sequence.extend(ask.token_ids[sequence.length :])
        sequence.table.reserve(length - sequence.cached)
        row.begin(ask)

    def _go_on(self, row: _Row) -> bool:
        """Hands the reply to the row's work; whether it asks for more."""
        count = len(row.drawn)
        kept = (tensor[row.slot, :count].to("cpu", copy=True) for tensor in (self._top_ids, self._top_log_probs))
        try:
            ask = row.work.send(Reply(row.drawn, *kept))
        except StopIteration:
            return False
        self._begin(row, ask)
        return True

    def _step(self, rows: Seq[_Row]) -> int:
        """One pass; returns how many tokens were drawn."""
        drawing: list[_Row] = []
        chunks: list[Chunk] = []
        room = self._prompt_tokens
        for row in rows:
            missing = row.sequence.missing
            count = 1 if missing == 1 else min(missing, room)
            room -= count if missing > 1 else 0
            if count == missing:
                drawing.append(row)
            if count:
                chunks.append(Chunk(row.sequence, count, 1 if count == missing else 0))
        logits = [part for part in self._runner.run(chunks) if len(part)]
        if drawing:
            self._receive(drawing, self._draw(drawing, join(logits)))
        return len(drawing)

    def _draw(self, rows: Seq[_Row], logits: Tensor) -> Drawn:
        u = uniforms([row.stream for row in rows], Purpose.TARGET, [len(row.drawn) for row in rows])
        logits = logits[:, : self._runner.loaded.vocabulary_size]
        return draw_and_keep(logits, [row.ask.temperature for row in rows], u, self._top_ids.shape[2])

    def _receive(self, rows: Seq[_Row], drawn: Drawn) -> None:
        slots = torch.tensor([row.slot for row in rows], device=drawn.tokens.device)
        places = torch.tensor([len(row.drawn) for row in rows], device=drawn.tokens.device)
        self._top_ids[slots, places] = drawn.top_ids
        self._top_log_probs[slots, places] = drawn.top_log_probs
        for row, token in zip(rows, drawn.tokens.tolist(), strict=True):
            row.drawn.append(token)
            row.is_done = token in row.ask.ends or len(row.drawn) == row.ask.limit
            if not row.is_done:
                row.sequence.extend((token,))


class _Row:
    """slot: where its distributions are kept. drawn: tokens of the reply so far."""

    __slots__ = ("ask", "drawn", "is_done", "sequence", "slot", "stream", "work")

    def __init__(self, slot: int, work: Work, sequence: Sequence) -> None:
        self.slot = slot
        self.work = work
        self.sequence = sequence

    def begin(self, ask: Ask) -> None:
        self.ask = ask
        self.stream = NoiseStream(ask.seed)
        self.drawn: list[int] = []
        self.is_done = False


def _common(one: Seq[int], other: Seq[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
