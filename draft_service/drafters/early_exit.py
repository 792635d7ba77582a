"""Early exit: the target's own first layers draft, with its final norm and output layer.

Self-speculative decoding as in LayerSkip (arXiv 2404.16710), with the layer and the length chosen as in DEL (arXiv
2504.05598; `exit_choice`). There draft and target are one, so that each verification also shows what every layer would
have said. Here the target is elsewhere, and the draft looks for itself [ours]: the prompt is processed in all layers,
and each time that so many tokens have been added, one pass takes them through all layers, before the next block. It
notes what each layer would have said, and leaves a cache that is right in all layers, so the layer may change then, and
only then. Each candidate's q is what it was drawn from, and layer and length depend on what came before the block.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Drawn, is_sampled
from draft_service.drafters.exit_choice import ExitChoice
from draft_service.drafters.growth import Growth, Voice, candidates, receive_grown
from draft_service.drafters.model import ModelDrafter, Prefill
from draft_service.drafters.no_ahead import NothingAhead
from tandem.distributions import CompressedRow
from tandem.inference import runner
from tandem.inference.engine import Engine
from tandem.inference.exits import ExitSequence
from tandem.sampling import History, SamplingChain
from tandem.sayable import Sayable
from tandem.v1 import draft_pb2, model_pb2
from tandem.wire import timing_message

# Tokens from one look to the next: a pass over so few takes little longer than one over a single token.
_LOOK_EVERY = 16
# Last tokens of the prompt that the first look is at: what is far back says little of what is to come.
_LOOK_BACK = 32


class EarlyExitDrafter(ModelDrafter):
    """Drafts with the first layers of the target. Its engine runs an `ExitRunner`."""

    def __init__(
        self,
        engine: Engine,
        info: model_pb2.ModelInfo,
        sayable: Sayable | None = None,
    ) -> None:
        """info: of the whole model."""
        super().__init__(engine, info, sayable=sayable)
        self.info = model_pb2.ModelInfo()
        self.info.CopyFrom(info)
        self.info.model_id = f"early-exit:{info.model_id}"
        self.info.trees = False

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        sequence = await self._engine.open(spec.priority, tokens=len(spec.tokens) - 1, within=spec.within)
        if not isinstance(sequence, ExitSequence):
            raise TypeError("the engine's sequences leave after the last layer")
        choice = ExitChoice(sequence.exits, sequence.depth)
        return EarlyExitSequence(self._engine, sequence, spec, self.info, choice, self._sayable)


class EarlyExitSequence(NothingAhead):
    """One sequence and its cache. It neither looks ahead nor makes trees [ours]."""

    def __init__(
        self,
        engine: Engine,
        sequence: ExitSequence,
        spec: SequenceSpec,
        info: model_pb2.ModelInfo,
        choice: ExitChoice,
        sayable: Sayable | None = None,
    ) -> None:
        self._engine = engine
        self._sequence = sequence
        self._spec = spec
        self._context_length = info.context_length
        self._vocabulary_size = info.vocabulary_size
        self._choice = choice
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._voice = Voice(spec, self._chain, self._history, info.context_length, sayable)
        self._exit, self._most = 0, 1  # of the last block
        self._start = 0  # absolute position of its first candidate
        self._drawn: Sequence[Drawn] = ()
        self._looked = len(spec.tokens) - 1  # tokens that have been taken through all layers
        sequence.watch_from = max(0, self._looked - _LOOK_BACK)
        self._prefill = asyncio.ensure_future(self._process_prompt())

    async def _process_prompt(self) -> None:
        # The last token waits for the first round, which needs its logits.
        prompt = self._spec.tokens[:-1]
        if prompt and len(prompt) < self._context_length:
            await self._engine.run(Prefill(self._sequence, prompt))

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        await self._prefill
        self._judge(tokens, cached)
        self._drawn, self._start = (), len(tokens)
        if len(tokens) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)
        work = _Drafting(self, tokens, cached, round_number, limits)
        timing = await self._engine.run(work)
        self._drawn = work.growth.drawn
        stop = work.growth.stop
        block = candidates(self._drawn, draft_pb2.DRAFT_STOP_MAX_TOKENS if stop is None else stop)
        block.timing = timing_message(timing)
        return block

    def _judge(self, tokens: Sequence[int], cached: int) -> None:
        """Learns what became of the last block."""
        if not self._drawn:
            return
        kept = min(max(0, cached - self._start), len(self._drawn))
        probabilities = [math.exp(each.log_probability) for each in self._drawn[: kept + 1]]
        place, rejected = self._start + kept, None
        # One that was never judged, because the block was cut, is no evidence.
        if kept < len(self._drawn) and place < len(tokens) and tokens[place] != self._drawn[kept].token_id:
            rejected = probabilities[kept]
        self._choice.judged(self._exit, probabilities[:kept], rejected)

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Learns nothing from it."""

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if not self._spec.max_entries or is_sampled(self._spec.verification):
            raise no_rows()
        rows = [row for index in indices if (row := self._drawn[index].full_row) is not None]
        sayable = self._voice.sayable
        return rows if sayable is None else [sayable.spread(row, self._vocabulary_size) for row in rows]

    async def close(self) -> None:
        self._prefill.cancel()
        await self._engine.release(self._sequence)

    # On the engine's thread.

    def looks(self, tokens: Sequence[int]) -> bool:
        """Whether it is time to take what has been added through all layers."""
        return len(tokens) - 1 - self._looked >= _LOOK_EVERY

    def begin_look(self, tokens: Sequence[int], cached: int) -> Sequence[int]:
        """What has to be fed for it."""
        sequence = self._sequence
        sequence.truncate(min(sequence.length, cached, sequence.whole))
        sequence.layers, sequence.watch_from = 0, self._looked
        self._looked = len(tokens) - 1
        return tokens[sequence.length : -1]

    def grow(self, tokens: Sequence[int], round_number: int, limits: draft_pb2.DraftLimits) -> Growth:
        """Learns what was seen, if something was, and chooses how to draft a block."""
        said, self._sequence.said = self._sequence.said, {}
        if said:
            places = sorted(said)
            self._choice.look((said[place], tokens[place + 1]) for place in places)
        self._sequence.watch_from = math.inf
        if said or not self._exit:  # the cache may be right in no more layers than these
            self._exit, self._most = self._choice.best()
        self._sequence.layers = self._exit
        own = draft_pb2.DraftLimits()
        own.CopyFrom(limits)
        own.max_tokens = min(limits.max_tokens, self._most)
        least = max(self._choice.threshold(self._exit), limits.min_probability)
        if least:
            own.min_probability = least
        return Growth(self._voice, len(tokens), round_number, own, foresees=False)


class _Drafting:
    """One block in the making, and a look before it where it is time for one; runs on the engine's thread."""

    def __init__(
        self,
        owner: EarlyExitSequence,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
    ) -> None:
        self.sequence: runner.Sequence = owner._sequence
        self.growth: Growth
        self._owner = owner
        self._tokens = tokens
        self._cached = cached
        self._round = round_number
        self._limits = limits
        self._feed: Sequence[int] | None = None
        self._begun = self._looking = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._begun:
            self._begun = True
            if self._owner.looks(self._tokens):
                missing = self._owner.begin_look(self._tokens, self._cached)
                if missing:
                    self._looking = True
                    return missing, 0
            self.sequence.truncate(min(self.sequence.length, self._cached, len(self._tokens) - 1))
            return self._first_block()
        if self._looking:
            self._looking = False
            return self._first_block()
        feed, self._feed = self._feed, None
        return None if feed is None else (feed, 1)

    def _first_block(self) -> tuple[Sequence[int], int] | None:
        self.growth = self._owner.grow(self._tokens, self._round, self._limits)
        missing = self._tokens[self.sequence.length :]
        if self._limits.max_tokens == 0:  # only takes the prefix in; its last token waits for the next round
            return (missing[:-1], 0) if len(missing) > 1 else None
        return missing, 1

    @classmethod
    def receive_all(cls, works: Sequence[_Drafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        """Draws for all; a work that asked for no logits has nothing to draw."""
        return receive_grown(works, logits)

    def take(self, drawn: Drawn) -> None:
        token = self.growth.take(drawn)
        if token is not None:
            self._feed = [token]
