"""A draft that goes on from the target's features (EAGLE, arXiv 2401.15077, section 4).

At each token it reads the hidden state of the target that the token was drawn from, and what it makes of them is taken
for the target's next one; see `tandem.inference.feeding`. In the paper draft and target are one program. Here the
features come with each continuation: of what is new, and at first of the text's last 32 tokens, where the draft's own
text begins [ours; those of a whole prompt would be two bytes a number of each of its tokens, and what is before them
they have read]. Without any of them it has nothing to propose.

What has no feature is read with the draft's own prediction of it: candidates, and up to 8 committed tokens whose
features were lost. Behind a longer gap the draft's text begins anew, with the features that come after it; until then
it has nothing to propose. Each candidate's q is what it was drawn from, whatever it was fed with, so that every exact
rule stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from draft_service.drafters.base import Candidates, DraftSequence, SequenceSpec, no_rows
from draft_service.drafters.drawing import Drawn, is_sampled
from draft_service.drafters.growth import Growth, Voice, candidates, receive_grown
from draft_service.drafters.model import ModelDrafter
from draft_service.drafters.no_ahead import NothingAhead
from tandem.distributions import CompressedRow
from tandem.inference import runner
from tandem.inference.engine import Engine
from tandem.inference.feeding import PROMPT_FEATURES, FedSequence
from tandem.sampling import History, SamplingChain
from tandem.sayable import Sayable
from tandem.v1 import draft_pb2, model_pb2
from tandem.wire import timing_message

# Committed tokens without features that it goes on over: each takes a pass, and is a guess upon the one before.
_MOST_GUESSED = 8


class FeaturesDrafter(ModelDrafter):
    """Drafts with a head over the target's features. Its engine runs a `FedRunner`."""

    def __init__(self, engine: Engine, info: model_pb2.ModelInfo, sayable: Sayable | None = None) -> None:
        """info: of the head, whose own features would be those that it is fed with."""
        super().__init__(engine, info, sayable=sayable)
        self.info = model_pb2.ModelInfo()
        self.info.CopyFrom(info)
        self.info.fed_with.features.CopyFrom(info.features)
        self.info.fed_with.positions = PROMPT_FEATURES
        self.info.ClearField("features")
        self.info.trees = False

    async def open(self, spec: SequenceSpec) -> DraftSequence:
        tokens = min(PROMPT_FEATURES, len(spec.tokens))
        sequence = await self._engine.open(spec.priority, tokens=tokens, within=spec.within)
        if not isinstance(sequence, FedSequence):
            raise TypeError("the engine's sequences read no features")
        return FeaturesSequence(self._engine, sequence, spec, self.info, self._sayable)


class FeaturesSequence(NothingAhead):
    """One text and what is known of the target along it. It neither looks ahead nor makes trees [ours].

    first: where the draft's own text begins. given: the features before its tokens, from that one on. valid: how many
    tokens in the cache were read with these.
    """

    def __init__(
        self,
        engine: Engine,
        sequence: FedSequence,
        spec: SequenceSpec,
        info: model_pb2.ModelInfo,
        sayable: Sayable | None = None,
    ) -> None:
        self._engine = engine
        self._sequence = sequence
        self._spec = spec
        self._context_length = info.context_length
        self._vocabulary_size = info.vocabulary_size
        self._chain = SamplingChain(spec.sampling, info.vocabulary_size, spec.constraint)
        self._history = History(spec.tokens[: spec.prompt_length])
        self._voice = Voice(spec, self._chain, self._history, info.context_length, sayable)
        self._drawn: Sequence[Drawn] = ()  # the last block
        self._text = list(spec.tokens)
        self.first = 0
        self.given: list[Tensor] = []
        self.valid = 0

    def fed(self, tokens: Sequence[int], features: Tensor) -> None:
        """See `base.TakesFeatures`."""
        self._follow(tokens)
        start = len(tokens) - len(features)
        if self.given and self.first <= start <= self.first + len(self.given):
            self.given[start - self.first :] = features
        else:
            self.first, self.given, self.valid = start, list(features), 0

    def _follow(self, tokens: Sequence[int]) -> None:
        """Forgets what was said behind other tokens than these."""
        same = _common(self._text, tokens)
        self._text = list(tokens)
        # A feature has read what is before its token.
        del self.given[max(0, same + 1 - self.first) :]
        self.valid = max(0, min(self.valid, same - self.first))

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        self._follow(tokens)
        self._drawn = ()
        if len(tokens) >= self._context_length:
            return Candidates(stop=draft_pb2.DRAFT_STOP_CONTEXT)
        start = self._spec.prompt_length
        self._history.become(tokens[start:], cached - start)  # also where it is silent: `cached` is from block to block
        missing = len(tokens) - self.first - len(self.given)
        if not self.given or missing > _MOST_GUESSED:
            return Candidates(stop=draft_pb2.DRAFT_STOP_NO_PROPOSAL)
        if not limits.max_tokens:
            return Candidates()
        work = _Drafting(self, tokens, Growth(self._voice, len(tokens), round_number, limits, foresees=False))
        timing = await self._engine.run(work)
        self._drawn, stop = work.growth.drawn, work.growth.stop
        block = candidates(self._drawn, draft_pb2.DRAFT_STOP_MAX_TOKENS if stop is None else stop)
        block.timing = timing_message(timing)
        return block

    async def full_rows(self, indices: Sequence[int]) -> list[Tensor]:
        if not self._spec.max_entries or is_sampled(self._spec.verification):
            raise no_rows()
        rows = [row for index in indices if (row := self._drawn[index].full_row) is not None]
        sayable = self._voice.sayable
        return rows if sayable is None else [sayable.spread(row, self._vocabulary_size) for row in rows]

    def told(self, tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
        """Learns nothing from it."""

    async def close(self) -> None:
        await self._engine.release(self._sequence)


class _Drafting:
    """One block in the making; runs on the engine's thread."""

    def __init__(self, owner: FeaturesSequence, tokens: Sequence[int], growth: Growth) -> None:
        self.sequence: runner.Sequence = owner._sequence
        self.growth = growth
        self._own = owner._sequence
        self._owner = owner
        known = owner.first + len(owner.given)
        self._known = tokens[owner.first : known]
        self._feed = list(tokens[known:])  # to be read with what the draft predicts
        self._begun = False

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if not self._begun:
            self._begun = True
            return self._first_block()
        if not self._feed:
            return None
        [state] = self.sequence.states.values()
        self._own.take_in(state.unsqueeze(0))
        self._note_last(1)
        return [self._feed.pop(0)], self._rows

    def _first_block(self) -> tuple[Sequence[int], int]:
        """What there are features for, at least the last of it, whose state is needed."""
        owner, sequence = self._owner, self.sequence
        sequence.truncate(min(sequence.length, owner.valid, len(self._known) - 1))
        owner.valid = len(self._known)
        missing = self._known[sequence.length :]
        self._own.take_in(torch.stack(owner.given[sequence.length :]))
        self._note_last(len(missing))
        return missing, self._rows

    @property
    def _rows(self) -> int:
        """Of logits: committed tokens are not drawn."""
        return int(not self._feed)

    def _note_last(self, count: int) -> None:
        """The state of the last one of the tokens that are fed now."""
        self.sequence.states_from = self.sequence.length + count - 1
        self.sequence.states = {}

    @classmethod
    def receive_all(cls, works: Sequence[_Drafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        """Draws for all; a work that asked for no logits has nothing to draw."""
        return receive_grown(works, logits)

    def take(self, drawn: Drawn) -> None:
        token = self.growth.take(drawn)
        if token is not None:
            self._feed = [token]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many tokens both begin."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(at for at in range(size) if one[at] != other[at])
