"""A block in the making: what its candidates are drawn by, those that have been drawn, and the limit that ended it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from draft_service.drafters.base import Candidates, SequenceSpec
from draft_service.drafters.drawing import Draw, Drawn, draw_many
from tandem.block_limits import Limiter
from tandem.sampling import History, NotFiniteError, SamplingChain, log_probs_batch
from tandem.sayable import Sayable
from tandem.transfers import portions
from tandem.v1 import draft_pb2


@dataclass(frozen=True, slots=True)
class Voice:
    """What the candidates of one text are drawn by. history: of that text; the chain may be another's too. sayable:
    tokens that the draft can say, the same for all its texts; None for all."""

    spec: SequenceSpec
    chain: SamplingChain
    history: History
    context_length: int
    sayable: Sayable | None = None

    def after(self, history: History, length: int, token: int) -> Voice:
        """Of the text that has the first `length` generated tokens of `history` and then `token`."""
        other = History(())
        if self.chain.reads_text:
            other = history.fork(length)
            other.append(token)
        return replace(self, history=other)


class Growth:
    """Candidates of one block. On one thread; others may read `stop` and then `drawn`, which only grow.

    drawn: kept ones. stop: which limit ended the block, None while it has not ended. refused: what was drawn for the
    place before which a limit ended it.
    """

    def __init__(
        self,
        voice: Voice,
        start: int,
        attempt: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool,
        is_asked: bool = True,
    ) -> None:
        """start: absolute position of the first candidate. attempt: of draws under RATIO and BLOCK. foresees: whether
        the likeliest others are wanted too. is_asked: whether somebody waits for it, and may want its full rows."""
        self.voice = voice
        self.start = start
        self.attempt = attempt
        self.drawn: list[Drawn] = []
        self.stop: draft_pb2.DraftStop.ValueType | None = None
        self.refused: Drawn | None = None
        self._limiter = Limiter(limits)
        self._most = limits.max_tokens
        self._foresees = foresees
        self._is_asked = is_asked

    @property
    def all_drawn(self) -> list[Drawn]:
        """All that was drawn, the refused one included."""
        return [*self.drawn, *([] if self.refused is None else [self.refused])]

    def wanted(self) -> Draw:
        """The next draw."""
        spec = self.voice.spec
        return Draw(
            spec.verification,
            spec.noise,
            self.start + len(self.drawn),
            self.attempt,
            spec.max_entries,
            spec.mass,
            self.voice.chain.forbids,
            self._foresees,
            self._is_asked,
        )

    def take(self, drawn: Drawn) -> int | None:
        """Adds a candidate, unless a limit ends the block before it. Returns its token where the block goes on."""
        if self._limiter.refuses(drawn.entropy):
            self.refused = drawn
            self.stop = draft_pb2.DRAFT_STOP_ENTROPY_BEFORE
            return None
        self.drawn.append(drawn)
        self.voice.history.append(drawn.token_id)
        self.stop = self._stop_after(drawn)
        return drawn.token_id if self.stop is None else None

    def give_up(self) -> None:
        """Ends the block where the draft has nothing to say."""
        self.stop = draft_pb2.DRAFT_STOP_NO_PROPOSAL

    def take_all(self, drawn: Iterable[Drawn]) -> None:
        """Adds what has been drawn before, as far as the limits allow."""
        for each in drawn:
            if self.stop is not None:
                return
            self.take(each)

    def _stop_after(self, drawn: Drawn) -> draft_pb2.DraftStop.ValueType | None:
        reached = self._limiter.after(drawn.entropy, drawn.log_probability)
        if drawn.token_id in self.voice.spec.stop_token_ids:
            return draft_pb2.DRAFT_STOP_END_TOKEN
        if reached is not None:
            return reached
        if len(self.drawn) >= self._most:
            return draft_pb2.DRAFT_STOP_MAX_TOKENS
        if self.start + len(self.drawn) >= self.voice.context_length:
            return draft_pb2.DRAFT_STOP_CONTEXT
        return None


def draw_next(
    wanted: Sequence[tuple[Voice, Draw]], logits: Sequence[Tensor]
) -> list[Drawn | NotFiniteError | None]:
    """The next candidate of each text; logits: fp32 [1, V] each. None where nothing that may follow can be said."""
    drawn: list[Drawn | NotFiniteError] = []
    sayable = wanted[0][0].sayable if wanted else None
    for part in portions(logits):
        voices = [voice for voice, _ in wanted[part]]
        chains, histories = [voice.chain for voice in voices], [voice.history for voice in voices]
        log_q = log_probs_batch(chains, logits[part], histories, [()] * len(voices), sayable)
        drawn += draw_many([draw for _, draw in wanted[part]], log_q, sayable)
    if sayable is None:
        return [*drawn]
    return [
        None if isinstance(each, NotFiniteError) and is_sound(rows) else each
        for each, rows in zip(drawn, logits, strict=True)
    ]


class Growing(Protocol):
    """A work that draws the candidates of one block."""

    growth: Growth

    def take(self, drawn: Drawn) -> None:
        """Adds what was drawn."""
        ...


def receive_grown(works: Sequence[Growing], logits: Sequence[Tensor]) -> list[Exception | None]:
    """Draws the next candidate of each work, as `Work.receive_all` has it; a work that asked for no logits has nothing
    to draw."""
    drawing = [(work, rows) for work, rows in zip(works, logits, strict=True) if len(rows)]
    wanted = [(work.growth.voice, work.growth.wanted()) for work, _ in drawing]
    drawn = draw_next(wanted, [rows for _, rows in drawing])
    failed: dict[int, Exception] = {}
    for (work, _), result in zip(drawing, drawn, strict=True):
        if isinstance(result, Drawn):
            work.take(result)
        elif result is None:
            work.growth.give_up()
        else:
            failed[id(work)] = result
    return [failed.get(id(work)) for work in works]


def is_sound(logits: Tensor) -> bool:
    """Whether the model is not to blame for what is no distribution: its logits are numbers or -infinity."""
    return bool((logits < math.inf).all())


def candidates(drawn: Sequence[Drawn], stop: draft_pb2.DraftStop.ValueType) -> Candidates:
    """A block of what was drawn."""
    return Candidates(
        token_ids=[each.token_id for each in drawn],
        log_probabilities=[each.log_probability for each in drawn],
        entropies=[each.entropy for each in drawn],
        rows=[each.row for each in drawn if each.row is not None],
        stop=stop,
    )
