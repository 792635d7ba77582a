"""Drafting before it is asked for: while the target verifies a block, the next one is drafted for each of its likeliest
outcomes, on branches of the sequence that are rows of one batch (SSD, arXiv 2603.03251; here with adaptive lengths, and
under coupled sampling with the noise that draft and target share).

A branch is used only where both its number of candidates and its token have come true, and its candidates come with the
laws that they were drawn from, so every exact rule stays exact. Draws under RATIO and BLOCK use the number of the round
that would ask for them: whether a block was drafted ahead changes nothing about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from draft_service.drafters import outcomes
from draft_service.drafters.base import Counts
from draft_service.drafters.drawing import Draw, Drawn, is_sampled
from draft_service.drafters.growth import Growth, Voice, draw_next
from draft_service.drafters.outcomes import Ranking
from tandem.block_limits import expected_acceptance
from tandem.inference.engine import Engine
from tandem.inference.runner import Sequence as Cached
from tandem.sampling import History, NotFiniteError
from tandem.v1 import draft_pb2

# What a block that is there saves, in seconds, where nobody has said so.
_HIT_SECONDS = 0.02
# Tokens that are looked at after each number of candidates kept.
_MOST_CHOICES = 8


@dataclass(frozen=True, slots=True)
class Base:
    """A block whose outcomes are foreseen.

    round: its number. position: absolute, of its first candidate. last: the token before that. drawn: its candidates.
    history: of the text with all of `drawn`, its own; prompt_length: tokens that are not in it. plan: what may be
    drafted. grown: to be called, on the engine's thread, whenever there is more.
    """

    round: int
    position: int
    last: int
    drawn: Sequence[Drawn]
    history: History
    prompt_length: int
    plan: draft_pb2.LookAhead
    grown: Callable[[], None]

    @property
    def end(self) -> int:
        """Absolute position behind its candidates."""
        return self.position + len(self.drawn)

    def worth(self, probability: float) -> float:
        """Seconds that a branch is expected to save its caller, whose outcome has this probability."""
        return probability * (self.plan.hit_seconds or _HIT_SECONDS)


@dataclass(eq=False, slots=True)
class Branch:
    """The block for one outcome. On the engine's thread, but for `sent`: candidates of it that were sent, None where
    nobody has heard of it yet."""

    owner: LookAhead
    sequence: Cached
    base: Base
    position: int  # absolute, of the outcome's token
    token: int | None  # None until the draft's own next token is known
    probability: float
    feed: list[int]
    growth: Growth | None = None
    sent: int | None = None
    rest: list[outcomes.Outcome] = field(default_factory=list)  # to be branched off when it is known
    worth: float = 0.0
    is_frozen: bool = False

    @property
    def drawn(self) -> Sequence[Drawn]:
        return self.growth.drawn if self.growth is not None else ()

    @property
    def refused(self) -> Drawn | None:
        return self.growth.refused if self.growth is not None else None

    @property
    def stop(self) -> draft_pb2.DraftStop.ValueType | None:
        return self.growth.stop if self.growth is not None else None

    @property
    def token_id(self) -> int:
        return self.token or 0

    @property
    def kept(self) -> int:
        return self.position - self.base.position

    def next_block(self) -> tuple[Sequence[int], int] | None:
        if self.sequence.closed or self.is_frozen or not self.feed:
            return None
        feed, self.feed = self.feed, []
        return feed, 1

    def stopped(self, error: Exception) -> None:
        self.owner.failed(self, error)

    def wanted(self) -> tuple[Voice, Draw]:
        if self.growth is not None:
            return self.growth.voice, self.growth.wanted()
        return self.owner.wanted(self)

    def take(self, drawn: Drawn) -> None:
        if self.growth is None:
            self.owner.guessed(self, drawn)
            return
        token = self.growth.take(drawn)
        self.owner.counts.drawn += 1
        self.worth *= self.owner.acceptance(drawn)
        if token is not None:
            self.feed = [token]

    def give_up(self) -> None:
        """The draft has nothing to say here."""
        if self.growth is not None:
            self.growth.give_up()
        else:
            self.owner.guessed(self, None)

    @classmethod
    def receive_all(cls, works: Sequence[Branch], logits: Sequence[Tensor]) -> list[Exception | None]:
        drawn = draw_next([work.wanted() for work in works], logits)
        for work, result in zip(works, drawn, strict=True):
            if isinstance(result, Drawn):
                work.take(result)
            elif result is None:
                work.give_up()
        for base in {id(work.base): work.base for work in works}.values():
            base.grown()
        return [result if isinstance(result, NotFiniteError) else None for result in drawn]


class LookAhead:
    """Of one sequence. On the engine's thread, but for what says otherwise."""

    def __init__(self, engine: Engine, root: Cached, voice: Voice, ranking: Ranking, counts: Counts) -> None:
        self.counts = counts
        self.branches: dict[tuple[int, int], Branch] = {}  # by the token's position and the token
        #: What was drawn behind the last block on the same line and is not part of it.
        self.surplus: Sequence[Drawn] = ()
        self._engine = engine
        self._root = root
        self._voice = voice
        self._ranking = ranking
        self._base: Base | None = None
        self._main: Branch | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the service does it, for such a sequence. On any thread."""
        return self._engine.ahead_rows > 0 and not self._voice.chain.follows_one_text

    def begin(self, base: Base) -> None:
        """Begins to draft for what may become of a block; what there was is given up."""
        self.stop()
        root, least = self._root, self._engine.least_worth()
        if root.closed or root.missing or root.length < base.end - 1 or least == math.inf:  # it had to give way
            return
        self._base = base
        shares = list(base.plan.correction_shares) or (
            outcomes.SAMPLED_SHARES if self._is_sampled else outcomes.CHOSEN_SHARES
        )
        choices = [len(self._choices(base, kept)) for kept in range(len(base.drawn))]
        choices.append(_MOST_CHOICES if self._goes_on(base) else 0)
        acceptances = [self.acceptance(each) for each in base.drawn]
        chosen = [
            outcome
            for outcome in self._ranking(acceptances, shares, choices, base.plan.max_branches)
            if base.worth(outcome.probability) > least
        ]
        behind = [outcome for outcome in chosen if outcome.kept == len(base.drawn)]
        for outcome in chosen:
            if outcome.kept < len(base.drawn):
                token = self._choices(base, outcome.kept)[outcome.rank]
                self._branch(root, base.position + outcome.kept, token, outcome.probability)
        if behind:
            self._begin_main(base, behind)
        base.grown()

    def settle(self, key: tuple[int, int] | None) -> Growth | None:
        """An outcome is known: its branch becomes the sequence, the others are closed. key: position and token; None
        for another one. Returns what has been drafted for it, None where nothing was."""
        root, branch = self._root, self.branches.get(key) if key is not None else None
        if branch is not None and not branch.sequence.closed and not root.closed:
            root.become(branch.sequence)
        elif key is not None:  # nothing foreseen, or it had to give way
            root.truncate(min(root.length, key[0]))
        self.stop()
        self.surplus = ()
        return branch.growth if branch is not None else None

    def take(self, key: tuple[int, int], used: int) -> None:
        """As `settle`, for a block that is taken: `used` of its candidates are the last block now."""
        self.counts.taken += used
        growth = self.settle(key)
        if growth is not None and self._root.cached >= key[0] + used:
            self.surplus = growth.all_drawn[used:]

    def stop(self) -> None:
        """Gives up all branches."""
        for branch in (*self.branches.values(), *([self._main] if self._main else [])):
            self._engine.close_branch(branch.sequence)
        self.branches = {}
        self._main = self._base = None

    def freeze(self) -> None:
        """Lets the branches stand as they are."""
        for branch in self.branches.values():
            branch.is_frozen = True
        if self._main is not None:
            self._engine.close_branch(self._main.sequence)

    def failed(self, branch: Branch, error: Exception) -> None:
        if branch is self._main:
            self._main = None

    def acceptance(self, drawn: Drawn) -> float:
        """Expected of a candidate."""
        curve = self._base.plan.acceptance_curve if self._base is not None else None
        return expected_acceptance(curve, drawn.entropy) if curve and curve.entropies else outcomes.ACCEPTANCE

    def wanted(self, main: Branch) -> tuple[Voice, Draw]:
        """The draw of the draft's own next token behind a block."""
        base = main.base
        voice = replace(self._voice, history=base.history)
        limits = draft_pb2.DraftLimits(max_tokens=1)
        return voice, Growth(voice, base.end, base.round + 1, limits, foresees=True, is_asked=False).wanted()

    def guessed(self, main: Branch, drawn: Drawn | None) -> None:
        """The distribution behind the block is known: `main` goes on with the best token, others branch off. drawn:
        None where nothing that may follow can be said."""
        base, self._main = main.base, None
        tokens = [] if drawn is None else self._following(drawn)
        for outcome in main.rest:
            if outcome.rank < len(tokens):
                self._branch(main.sequence, base.end, tokens[outcome.rank], outcome.probability)
        self._engine.close_branch(main.sequence)

    def _begin_main(self, base: Base, behind: list[outcomes.Outcome]) -> None:
        root, end = self._root, base.end
        if not self.surplus:
            text = [base.last, *(each.token_id for each in base.drawn)]
            start = min(root.length, end - 1)
            sequence = self._engine.branch(root, start)
            probability = sum(outcome.probability for outcome in behind)
            text = text[start - base.position + 1 :]
            main = Branch(self, sequence, base, end, None, probability, text, rest=behind)
            main.worth = base.worth(probability)
            self._main = main
            self._engine.run_ahead(main)
            return
        first, tokens = self.surplus[0], self._following(self.surplus[0])
        for outcome in behind:
            if outcome.rank >= len(tokens):
                continue
            token = tokens[outcome.rank]
            known = self.surplus[1:] if token == first.token_id and not self._is_sampled else ()
            self._branch(root, end, token, outcome.probability, known)

    def _branch(
        self, parent: Cached, position: int, token: int, probability: float, known: Sequence[Drawn] = ()
    ) -> None:
        """known: candidates that have been drawn behind the token, as the parent has them."""
        base, voice = self._base, self._voice
        if base is None or (position, token) in self.branches or position + 1 >= voice.context_length:
            return
        if parent.closed:
            return
        voice = voice.after(base.history, position - base.prompt_length, token)
        growth = Growth(voice, position + 1, base.round + 1, base.plan.limits, foresees=True, is_asked=False)
        growth.take_all(known)
        text = [token, *(each.token_id for each in growth.drawn)]
        cached = position
        if known and parent.length > position:
            cached = min(parent.length, position + len(text) - 1)
        sequence = self._engine.branch(parent, cached)
        feed = text[cached - position :] if growth.stop is None else []
        branch = Branch(self, sequence, base, position, token, probability, feed, growth)
        branch.worth = base.worth(probability) * math.prod(self.acceptance(each) for each in growth.drawn)
        self.branches[position, token] = branch
        self._engine.run_ahead(branch)

    def _choices(self, base: Base, kept: int) -> list[int]:
        """Tokens that may follow `kept` candidates in place of the next one, likeliest first."""
        drawn = base.drawn[kept]
        return self._going_on(token for token in drawn.best if token != drawn.token_id)

    def _following(self, drawn: Drawn) -> list[int]:
        """Tokens that may follow the whole block, likeliest first."""
        best = list(drawn.best)
        if not self._is_sampled:  # the draw is the best there is
            best = [drawn.token_id, *(token for token in best if token != drawn.token_id)]
        return self._going_on(best)

    def _going_on(self, tokens: Iterable[int]) -> list[int]:
        """Those after which there is something to draft."""
        return [token for token in tokens if token not in self._voice.spec.stop_token_ids][:_MOST_CHOICES]

    def _goes_on(self, base: Base) -> bool:
        """Whether anything can follow the whole block."""
        ends = bool(base.drawn) and base.drawn[-1].token_id in self._voice.spec.stop_token_ids
        return not ends and base.end + 1 < self._voice.context_length

    @property
    def _is_sampled(self) -> bool:
        return is_sampled(self._voice.spec.verification)
