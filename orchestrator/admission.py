"""Which completions are begun now, which wait, and which are told at once to come back later.

To serve all a little makes all of them late. So a completion is let in while those under way and itself are expected
to end within their callers' deadlines, a margin included; others wait in a bounded line, by priority, then by age. One
that would not end in time even after its wait is refused at once, with the time after which to come back: its caller
can go elsewhere, and nothing is spent on it. Who has named no deadline is let in while the others keep theirs, and may
wait for as long as it likes.

Nobody is refused for a deadline before speculation has been reduced (`shedding`): `strain` says how near this is.

The estimates are of `throughput`. Where nothing is known, or nobody else is under way, everybody is let in: what is
refused by mistake is worse than what is late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from orchestrator.deadline import Deadline
from orchestrator.line import Line, Ticket
from orchestrator.throughput import Pace
from tandem.rpc.errors import TandemError

# What an arrival has shown counts for so long, if nobody comes.
_HOLD_SECONDS = 2.0
# For so long speculation has to have been reduced before anybody is refused for a deadline.
_SHED_SECONDS = 0.25
# Between two looks at the line because of what completions have got on.
_REVIEW_SECONDS = 0.05
_RETRY_SECONDS = (0.1, 30.0)


class Tokens(Protocol):
    """What a round has committed."""

    @property
    def tokens(self) -> Sequence[object]: ...


RoundT = TypeVar("RoundT", bound=Tokens)


@dataclass(slots=True)
class Ask:
    """count: completions of the request. allowed: most tokens of each. places: once it has been let in."""

    count: int
    allowed: int
    priority: int = 0
    deadline: Deadline = field(default_factory=Deadline)
    places: Places | None = None


@dataclass(eq=False, slots=True)
class Place:
    """Of one completion under way. expected: tokens that it is likely to have."""

    admission: Admission
    ask: Ask
    expected: float
    tokens: int = 0
    _took: float = 0.0
    _foreseen: float = 0.0
    _has_ended: bool = False

    @property
    def left(self) -> float:
        """Tokens that are still to be expected, at least one."""
        return max(self.expected - self.tokens, 1.0)

    async def timed(self, rounds: AsyncGenerator[RoundT]) -> AsyncGenerator[RoundT]:
        """The rounds of the completion, and notes what each took; what its reader takes is not counted."""
        async with aclosing(rounds):
            while True:
                began = time.monotonic()
                try:
                    committed = await anext(rounds)
                except StopAsyncIteration:
                    return
                self._note(len(committed.tokens), time.monotonic() - began)
                yield committed

    def _note(self, tokens: int, seconds: float) -> None:
        pace = self.admission.pace
        if not self.tokens:
            pace.began(seconds)
        else:
            n = self.admission.per_target()
            if pace.is_known:
                self._foreseen += tokens * pace.token_seconds(n)
                self._took += seconds
            pace.add(n, tokens, seconds)
        self.tokens += tokens
        self.admission.review_soon()

    def ended(self) -> None:
        """The completion has come to its end by itself."""
        self._has_ended = True

    def release(self) -> None:
        """May be called at any time, also twice."""
        if not self.admission.leave(self):
            return
        pace, allowed = self.admission.pace, self.ask.allowed
        pace.judged(self._took, self._foreseen)
        if self._has_ended:
            pace.ended(allowed, self.tokens)
        elif self.ask.deadline.left() == 0 and self.tokens:
            pace.cut_off(allowed, self.tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Places(list[Place]):
    """Of one request; given up on leaving."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for place in self:
            place.release()


class Admission:
    """Belongs to one event loop. most: completions under way. most_waiting: requests that wait. targets: that are ready
    now."""

    def __init__(self, most: int, most_waiting: int, targets: Callable[[], int] = lambda: 1) -> None:
        self.pace = Pace()
        self._most = most
        self._targets = targets
        self._line: Line[Ask] = Line(most_waiting)
        self._places: set[Place] = set()
        self._strain, self._strained_at = 0.0, -_HOLD_SECONDS
        self._blocked_since, self._blocked_at = 0.0, -_HOLD_SECONDS
        self._reviewed_at = 0.0

    @property
    def under_way(self) -> int:
        return len(self._places)

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._line)

    @property
    def strain(self) -> float:
        """How near the orchestrator is to letting somebody wait: at 1 somebody does, or has just been refused."""
        if self._line:
            return 1.0
        is_fresh = time.monotonic() - self._strained_at < _HOLD_SECONDS
        return max(self._strain if is_fresh else 0.0, self.under_way / self._most)

    def per_target(self, more: int = 0) -> float:
        """Completions for each target, if there were so many more."""
        return (self.under_way + more) / max(1, self._targets())

    async def enter(self, ask: Ask) -> Places:
        """Waits for its turn. Raises TandemError OVERLOADED; DEADLINE_EXCEEDED where the caller's time is over."""
        if ask.deadline.left() == 0:
            raise TandemError.deadline_exceeded()
        needed = self._needed(ask)
        self._arrived(needed)
        if needed <= 1 and not self._line.before(ask.priority):
            return self._let_in(ask)
        self._check(ask)
        ticket = Ticket(ask.priority, ask)
        self._line.join(ticket)
        try:
            async with asyncio.timeout(self._patience(ask)):
                await ticket.wait()
        except TimeoutError:
            if ask.places is None:
                raise self._refusal("the completion would not end within its deadline") from None
        except BaseException:
            if ask.places is not None:  # let in and gone at the same moment
                ask.places.__exit__()
            raise
        finally:
            self._line.leave(ticket)
            self._review()
        assert ask.places is not None
        return ask.places

    def leave(self, place: Place) -> bool:
        """Whether it was still there."""
        if place not in self._places:
            return False
        self._places.discard(place)
        self._review()
        return True

    def review_soon(self) -> None:
        """Completions have got on: somebody may be let in."""
        if self._line and time.monotonic() - self._reviewed_at > _REVIEW_SECONDS:
            self._review()

    def _let_in(self, ask: Ask) -> Places:
        expected = self.pace.length(ask.allowed)
        ask.places = Places(Place(self, ask, expected) for _ in range(ask.count))
        self._places.update(ask.places)
        return ask.places

    def _review(self) -> None:
        self._reviewed_at = time.monotonic()
        while (ticket := self._line.first) is not None and self._needed(ticket.what) <= 1:
            self._line.leave(ticket)
            if not ticket.is_decided:
                self._let_in(ticket.what)
                ticket.admit()

    def _needed(self, ask: Ask) -> float:
        """What would be used if it were let in: of the bound, or of the time that somebody has. It fits up to 1."""
        # One request may ask for more than the bound: by itself it is let in.
        needed = (self.under_way + min(ask.count, self._most)) / self._most
        if not self.under_way or not self.pace.is_known:
            return needed
        margin = self.pace.margin
        now, then = (self.pace.token_seconds(n) for n in (self.per_target(), self.per_target(ask.count)))
        if (left := ask.deadline.left()) is not None:
            needed = max(needed, margin * self._seconds(ask, then) / max(left, 1e-3))
        for place in self._places:
            if (left := place.ask.deadline.left()) is None:
                continue
            # Who is late already, whether or not another comes, stands in nobody's way.
            if place.left * now <= left:
                needed = max(needed, margin * place.left * then / max(left, 1e-3))
        return needed

    def _seconds(self, ask: Ask, token_seconds: float) -> float:
        return self.pace.first_seconds + self.pace.length(ask.allowed) * token_seconds

    def _arrived(self, needed: float) -> None:
        now = time.monotonic()
        if needed > self._strain or now - self._strained_at >= _HOLD_SECONDS:
            self._strain, self._strained_at = min(needed, 1.0), now
        elif needed == self._strain:
            self._strained_at = now
        if needed > 1:
            if now - self._blocked_at >= _HOLD_SECONDS:
                self._blocked_since = now
            self._blocked_at = now

    def _check(self, ask: Ask) -> None:
        """Whether it may wait. Raises TandemError."""
        if self._line.is_full:
            last = self._line.last
            if last is None or last.rank[0] <= -ask.priority:
                raise self._refusal(f"{self.waiting} requests wait already (--max-waiting)")
            self._line.leave(last)
            last.refuse(self._refusal(f"{self.waiting} requests wait already, of larger priority (--max-waiting)"))
        has_shed = time.monotonic() - self._blocked_since >= _SHED_SECONDS
        left = ask.deadline.left()
        if has_shed and left is not None and self._wait(ask) + self._need_now(ask) > left:
            raise self._refusal("the completion would not end within its deadline")

    def _need_now(self, ask: Ask) -> float:
        """Seconds, once another has left for it; a margin included."""
        if not self.pace.is_known:
            return 0.0
        return self.pace.margin * self._seconds(ask, self.pace.token_seconds(self.per_target()))

    def _wait(self, ask: Ask) -> float:
        """Seconds before it is let in."""
        return (self._line.before(ask.priority) + 0.5) * self._between_ends(ask)

    def _between_ends(self, ask: Ask) -> float:
        """Seconds between two completions that end."""
        if not self.pace.is_known or not self.under_way:
            return 0.0
        return self._seconds(ask, self.pace.token_seconds(self.per_target())) / self.under_way

    def _patience(self, ask: Ask) -> float | None:
        """Seconds after which there is no use in waiting."""
        if (left := ask.deadline.left()) is None:
            return None
        return min(left, max(left - self._need_now(ask), _SHED_SECONDS))

    def _refusal(self, why: str) -> TandemError:
        first = self._line.first
        ask = first.what if first is not None else Ask(1, 1)
        wait = (self.waiting + 1) * self._between_ends(ask)
        return TandemError.overloaded(why, retry_after=min(max(wait, _RETRY_SECONDS[0]), _RETRY_SECONDS[1]))
