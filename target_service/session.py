"""One sequence in the target: its cache, its sampling chain, and the work that the engine does for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

import torch
from torch import Tensor

from tandem.branching import tree_log_probs
from tandem.distributions import full_row_distances
from tandem.inference import runner
from tandem.inference.engine import Engine, Timing
from tandem.inference.states import take_states
from tandem.rpc.errors import TandemError
from tandem.sampling import History, SamplingChain, log_probs_batch
from tandem.transfers import portions
from tandem.trees import NO_TREE, Tree
from target_service.log_probabilities import BlockLogProbabilities, log_probabilities
from target_service.spec import Proposal, RowFormat, SessionSpec, Verified
from target_service.verification import Block, BlockNumbers, Token, next_tokens, verify_many

# Of what is made of a sequence's text before it is read; and about how much of it a token takes.
_MOST_WAITING_BYTES = 4 << 20
_TOKEN_BYTES, _TOP_BYTES = 512, 64


class TargetSession:
    """Verifies and generates for one sequence."""

    def __init__(
        self,
        engine: Engine,
        sequence: runner.Sequence,
        spec: SessionSpec,
        vocabulary_size: int,
        feature_width: int = 0,
    ) -> None:
        """feature_width: numbers of the model's features; 0 where it gives none."""
        self.spec = spec
        self._feature_width = feature_width
        self._engine = engine
        self._sequence = sequence
        self._chain = SamplingChain(spec.sampling, vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._log_p: Tensor | None = None  # [n, V] of the last block's candidates, where distances are left open

    async def verify(self, tokens: Sequence[int], cached: int, proposal: Proposal) -> Verified:
        """One forward pass over what the cache lacks of `tokens` and the candidates.

        tokens: everything committed. cached: how many leading ones the cache may still hold from before.
        """
        self._set_history(tokens, cached)
        work = _Verification(self, tokens, cached, proposal)
        timing = await self._engine.run(work)
        assert work.numbers is not None
        return Verified(work.numbers, timing, work.model, work.considered, work.features)

    @property
    def makes_trees(self) -> bool:
        """Whether its text can be asked about on several paths."""
        return not self._chain.follows_one_text

    async def resolve(self, indices: Sequence[int], rows: Callable[[], Sequence[Tensor]]) -> list[tuple[float, float]]:
        """Distance and total variation of candidates of the last block from full rows of q.

        rows: gives log q fp16 [V] of each candidate; called on another thread, where all of this is computed, since
        it takes about a millisecond a row. Raises what it raises, and TandemError UNEXPECTED_MESSAGE for a block whose
        distributions had no tail, so that its distances are exact.
        """
        if not indices:
            return []
        log_p = self._log_p
        if log_p is None:
            raise TandemError.unexpected_message("the last block's distributions have no tail: nothing is left open")

        def compute() -> list[tuple[float, float]]:
            with torch.inference_mode():
                return full_row_distances(log_p[list(indices)], torch.stack(list(rows())))

        return await asyncio.to_thread(compute)

    async def generate(
        self,
        tokens: Sequence[int],
        cached: int,
        max_tokens: int,
        wanted: RowFormat | None = None,
        attempt: int = 0,
        features: int = 0,
    ) -> AsyncGenerator[tuple[Token, Timing]]:
        """Plain decoding: yields up to max_tokens tokens, ending after a stop token. wanted, attempt, features: of
        `Proposal`.

        The engine does not wait for a reader. So that one who never reads does not gather what is made for it, a piece
        of the text is made, and read, after the other.
        """
        self._set_history(tokens, cached)
        self._log_p = None
        text, wanted = list(tokens), wanted or self.spec.format
        asked = Proposal(wanted=wanted, attempt=attempt, features=features)
        while max_tokens > 0:
            size = min(max_tokens, self._most_ahead(wanted, features))
            async with aclosing(self._engine.stream(_Generation(self, text, cached, size, asked))) as items:
                async for item in items:
                    text.append(item[0].token_id)
                    yield item
            if text[-1] in self.spec.stop_token_ids:
                return
            max_tokens, cached = max_tokens - size, len(text)

    def _most_ahead(self, wanted: RowFormat, features: int) -> int:
        """Tokens that may wait for a reader."""
        entries = min(wanted.max_entries, self._chain.vocabulary_size)
        each = _TOKEN_BYTES + 6 * entries + _TOP_BYTES * (self.spec.log_probabilities or 0)
        each += 2 * self._feature_width * (features > 0)
        return max(1, _MOST_WAITING_BYTES // each)

    async def close(self) -> None:
        await self._engine.release(self._sequence)

    def _set_history(self, tokens: Sequence[int], cached: int) -> None:
        start = self.spec.prompt_length
        self._history.become(tokens[start:], cached - start)

    def _block(self, position: int, proposal: Proposal) -> Block:
        spec = self.spec
        drafts = spec.drafts and spec.rule.draws_residuals
        return Block(
            spec.rule, proposal.candidates, proposal.rows, spec.noise, position, self._chain.forbids,
            *(proposal.wanted or spec.format), proposal.tree, drafts, proposal.attempt if drafts else 0,
        )  # fmt: skip

    def _of_model(
        self,
        logits: Tensor,
        own: Sequence[int],
        candidates: Sequence[int] = (),
        corrections: Sequence[int] = (),
        tree: Tree = NO_TREE,
    ) -> BlockLogProbabilities | None:
        """Of rows of logits [n + 1, V]; None where nobody asked."""
        top = self.spec.log_probabilities
        if top is None:
            return None
        rows = [parent + 1 for parent in tree.parents] if len(tree) else None
        return log_probabilities(logits[:, : self._chain.vocabulary_size], own, candidates, corrections, top, rows)


def _rewind(sequence: runner.Sequence, tokens: Sequence[int], cached: int) -> Sequence[int]:
    """Cuts the cache to what still holds; returns the tokens to feed, at least the last one."""
    sequence.keep_path(tokens)
    sequence.truncate(min(sequence.length, cached, len(tokens) - 1))
    return tokens[sequence.length :]


def _note_states(sequence: runner.Sequence, position: int, features: int) -> None:
    """Before a block is fed. position: of the block. features: of `Proposal`."""
    sequence.states_from = max(0, position - features) if features else math.inf
    sequence.states = {}


def _log_probs(
    owners: Sequence[TargetSession], blocks: Sequence[Block], logits: Sequence[Tensor]
) -> Iterator[tuple[Sequence[Block], list[Tensor]]]:
    """Log-probabilities of each session's rows after its chain, for as many blocks at a time as pay."""
    branching = [bool(len(block.tree)) and owner._chain.reads_text for owner, block in zip(owners, blocks, strict=True)]
    if any(branching):  # alone, each of its rows follows a text of its own
        for owner, block, rows, branches in zip(owners, blocks, logits, branching, strict=True):
            if branches:
                log_p = tree_log_probs(owner._chain, rows, owner._history, block.candidates, block.tree)
                yield [block], [log_p]
            else:
                yield [block], log_probs_batch([owner._chain], [rows], [owner._history], [block.candidates])
        return
    for part in portions(logits):
        chains, histories = [owner._chain for owner in owners[part]], [owner._history for owner in owners[part]]
        candidates = [block.candidates for block in blocks[part]]
        yield blocks[part], log_probs_batch(chains, logits[part], histories, candidates)


class _Verification:
    """One block; runs on the engine's thread."""

    def __init__(
        self,
        owner: TargetSession,
        tokens: Sequence[int],
        cached: int,
        proposal: Proposal,
    ) -> None:
        self.sequence = owner._sequence
        self.numbers: BlockNumbers | None = None
        self.model: BlockLogProbabilities | None = None
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self.features: Tensor | None = None
        self._block = owner._block(len(tokens), proposal)
        self._scores = proposal.scores
        self._asks = proposal.features

    @property
    def considered(self) -> int:
        return len(self._block.candidates)

    def scores(self) -> Sequence[float]:
        return self._scores

    def cut(self, count: int) -> None:
        block = self._block
        rows = None if block.rows is None else block.rows[:count]
        self._block = replace(block, candidates=block.candidates[:count], rows=rows)

    def next_block(self) -> tuple[Sequence[int], int, Sequence[int]] | None:
        if self.numbers is not None:
            return None
        feed = _rewind(self.sequence, self._tokens, self._cached)
        _note_states(self.sequence, len(self._tokens), self._asks)
        candidates = self._block.candidates
        return [*feed, *candidates], len(candidates) + 1, self._block.tree.parents

    @classmethod
    def receive_all(cls, works: Sequence[_Verification], logits: Sequence[Tensor]) -> list[Exception | None]:
        blocks = [work._block for work in works]
        results: list[BlockNumbers | ValueError] = []
        kept: list[Tensor | None] = []
        for part, log_p in _log_probs([work._owner for work in works], blocks, logits):
            results += verify_many(part, log_p)
            for block, rows in zip(part, log_p, strict=True):
                if len(block.tree):  # rows of its candidates are not the first ones, and nothing asks for them
                    kept.append(None)
                    continue
                # Copies: a view would keep the rows of all sessions of the step as long as this one's.
                own = rows[:-1].clone() if len(part) > 1 and block.has_tail else rows[:-1]
                kept.append(own if block.has_tail else None)
        states = take_states([(work.sequence, len(work._tokens) + work.considered) for work in works])
        for work, rows, numbers, left_open, features in zip(works, logits, results, kept, states, strict=True):
            if not isinstance(numbers, Exception):
                work.numbers, work.features = numbers, features
                work.model = work._owner._of_model(
                    rows, numbers.target_tokens, work._block.candidates, numbers.corrections, work._block.tree
                )
                work._owner._log_p = left_open
        return [numbers if isinstance(numbers, Exception) else None for numbers in results]


class _Generation:
    """Token by token; runs on the engine's thread."""

    def __init__(
        self, owner: TargetSession, tokens: Sequence[int], cached: int, max_tokens: int, proposal: Proposal
    ) -> None:
        """proposal: of nothing; how each token is asked for."""
        self.sequence = owner._sequence
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._position = len(tokens)
        self._left = max_tokens
        self._proposal = proposal
        self._feed: Sequence[int] | None = None
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._started:
            self._started = True
            self._feed = _rewind(self.sequence, self._tokens, self._cached)
            _note_states(self.sequence, self._position, self._proposal.features)
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    @classmethod
    def receive_all(cls, works: Sequence[_Generation], logits: Sequence[Tensor]) -> Sequence[Token | Exception]:
        blocks = [work._owner._block(work._position, work._proposal) for work in works]
        results: list[Token | ValueError] = []
        for part, log_p in _log_probs([work._owner for work in works], blocks, logits):
            results += next_tokens(part, log_p)
        states = take_states([(work.sequence, work._position) for work in works])
        for index, (work, rows, result, features) in enumerate(zip(works, logits, results, states, strict=True)):
            if isinstance(result, Token):
                model = work._owner._of_model(rows, [result.token_id])
                if model is not None or features is not None:
                    result = replace(result, model=model.positions[0] if model else None, features=features)
                results[index] = result
                work._take(result)
        return results

    def _take(self, token: Token) -> None:
        self._position += 1
        self._left -= 1
        self._owner._history.append(token.token_id)
        _note_states(self.sequence, self._position, min(self._proposal.features, 1))
        if self._left > 0 and token.token_id not in self._owner.spec.stop_token_ids:
            self._feed = [token.token_id]
