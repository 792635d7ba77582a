"""One sequence in the target: its cache, its sampling chain, and the work that the engine does for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from torch import Tensor

from tandem.distributions import CompressedRow, compress, entropy, full_row_distance
from tandem.inference import runner
from tandem.inference.engine import Engine, Timing
from tandem.inference.work import SingleWork
from tandem.noise import NoiseStream
from tandem.sampling import History, SamplingChain, SamplingParams
from target_service.verification import BlockNumbers, Rule, target_tokens, verify


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """How a sequence was opened. prompt_length: how many of `tokens` penalties take for the prompt.

    max_entries and mass: what to send of p at each position; 0 entries send none.
    """

    tokens: tuple[int, ...]
    prompt_length: int
    sampling: SamplingParams
    rule: Rule
    noise: NoiseStream
    stop_token_ids: frozenset[int]
    max_entries: int
    mass: float


@dataclass(slots=True)
class Verified:
    """rows: p of each position, where asked for."""

    numbers: BlockNumbers
    rows: list[CompressedRow]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Token:
    """One token of plain decoding; log probability and entropy in nats."""

    token_id: int
    log_probability: float
    entropy: float
    row: CompressedRow | None


class TargetSession:
    """Verifies and generates for one sequence."""

    def __init__(self, engine: Engine, sequence: runner.Sequence, spec: SessionSpec, vocabulary_size: int) -> None:
        self.spec = spec
        self._engine = engine
        self._sequence = sequence
        self._chain = SamplingChain(spec.sampling, vocabulary_size)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._log_p: Tensor | None = None  # [n + 1, V] of the last block

    async def verify(
        self, tokens: Sequence[int], cached: int, candidates: Sequence[int], rows: Sequence[CompressedRow] | None
    ) -> Verified:
        """One forward pass over what the cache lacks of `tokens` and all candidates.

        tokens: everything committed. cached: how many leading ones the cache may still hold from before.
        """
        self._set_history(tokens, cached)
        work = _Verification(self, tokens, cached, candidates, rows)
        timing = await self._engine.run(work)
        assert work.numbers is not None
        return Verified(work.numbers, work.rows_of_p, timing)

    def resolve(self, index: int, log_q: Tensor) -> tuple[float, float]:
        """Distance and total variation of candidate `index` of the last block from a full row of q."""
        assert self._log_p is not None
        return full_row_distance(self._log_p[index], log_q)

    async def generate(
        self, tokens: Sequence[int], cached: int, max_tokens: int
    ) -> AsyncGenerator[tuple[Token, Timing]]:
        """Plain decoding: yields up to max_tokens tokens, ending after a stop token."""
        self._set_history(tokens, cached)
        self._log_p = None
        work = _Generation(self, tokens, cached, max_tokens)
        async with aclosing(self._engine.stream(work)) as items:
            async for item in items:
                yield item

    async def close(self) -> None:
        await self._engine.release(self._sequence)

    def _set_history(self, tokens: Sequence[int], cached: int) -> None:
        start = self.spec.prompt_length
        self._history.become(tokens[start:], cached - start)

    def _row(self, log_p: Tensor) -> CompressedRow | None:
        return compress(log_p, self.spec.max_entries, self.spec.mass) if self.spec.max_entries else None


def _rewind(sequence: runner.Sequence, tokens: Sequence[int], cached: int) -> Sequence[int]:
    """Cuts the cache to what still holds; returns the tokens to feed, at least the last one."""
    sequence.truncate(min(sequence.length, cached, len(tokens) - 1))
    return tokens[sequence.length :]


class _Verification(SingleWork):
    """One block; runs on the engine's thread."""

    def __init__(
        self,
        owner: TargetSession,
        tokens: Sequence[int],
        cached: int,
        candidates: Sequence[int],
        rows: Sequence[CompressedRow] | None,
    ) -> None:
        self.sequence = owner._sequence
        self.numbers: BlockNumbers | None = None
        self.rows_of_p: list[CompressedRow] = []
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._candidates = candidates
        self._rows = rows

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if self.numbers is not None:
            return None
        feed = _rewind(self.sequence, self._tokens, self._cached)
        return [*feed, *self._candidates], len(self._candidates) + 1

    def receive(self, logits: Tensor) -> None:
        owner, spec = self._owner, self._owner.spec
        log_p = owner._chain.log_probs(logits, owner._history, self._candidates)
        self.numbers = verify(
            spec.rule, log_p, self._candidates, self._rows, spec.noise, len(self._tokens)
        )
        owner._log_p = log_p
        if spec.max_entries:
            self.rows_of_p = [compress(row, spec.max_entries, spec.mass) for row in log_p]


class _Generation(SingleWork):
    """Token by token; runs on the engine's thread."""

    def __init__(self, owner: TargetSession, tokens: Sequence[int], cached: int, max_tokens: int) -> None:
        self.sequence = owner._sequence
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._position = len(tokens)
        self._left = max_tokens
        self._feed: Sequence[int] | None = None
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._started:
            self._started = True
            self._feed = _rewind(self.sequence, self._tokens, self._cached)
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    def receive(self, logits: Tensor) -> Token:
        owner, spec = self._owner, self._owner.spec
        log_p = owner._chain.log_probs(logits, owner._history)
        token = int(target_tokens(spec.rule, log_p, spec.noise, self._position))
        row = log_p[0]
        self._position += 1
        self._left -= 1
        owner._history.append(token)
        if self._left > 0 and token not in spec.stop_token_ids:
            self._feed = [token]
        return Token(token, float(row[token]), float(entropy(row)), owner._row(row))
