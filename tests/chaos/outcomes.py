"""What became of one request, as its caller saw it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tandem.rpc.errors import TandemError
from tests.chaos.works import Work

#: Reason of an error that no orchestrator has told: the connection failed.
TRANSPORT = "TRANSPORT"

clock = time.monotonic


@dataclass(slots=True)
class Received:
    """Of one choice. counted: tokens that the service says it has sent; None before the end. scored: entries of
    log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    counted: int | None = None
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """code: of gRPC, by name; that of HTTP stands for what it means. reason: of Tandem's catalogue, or TRANSPORT."""

    code: str
    reason: str
    message: str
    retry_after: float | None = None

    @classmethod
    def of(cls, error: TandemError) -> Failure:
        told = error.reason != "UNSPECIFIED"
        return cls(
            error.code.name, error.reason if told else TRANSPORT, error.message, error.retry_after if told else None
        )


@dataclass(slots=True, eq=False)
class Outcome:
    """orchestrator: that was called; empty for a caller that goes from one to another. seconds: what the caller gave
    it. patient: that is long enough for a pause. leaves_after: tokens after which the caller leaves; None to stay.
    arrivals: when tokens came, and how many. ended: None while it runs."""

    work: Work
    name: str
    caller: str
    orchestrator: str
    seconds: float
    patient: bool = True
    leaves_after: int | None = None
    began: float = field(default_factory=clock)
    ended: float | None = None
    choices: dict[int, Received] = field(default_factory=dict)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    failure: Failure | None = None
    has_left: bool = False
    overdue: bool = False

    def received(self, choice: int, tokens: list[int], text: str) -> Received:
        """Notes what has come; returns the choice that it belongs to."""
        found = self.choices.setdefault(choice, Received())
        found.tokens += tokens
        found.text += text
        if tokens:
            self.arrivals.append((clock(), len(tokens)))
        return found

    @property
    def tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices.values())

    @property
    def wants_to_leave(self) -> bool:
        return self.leaves_after is not None and self.tokens >= self.leaves_after

    @property
    def is_whole(self) -> bool:
        """Whether every choice came to an end."""
        ends = [choice.counted is not None for choice in self.choices.values()]
        return len(ends) == self.work.choices and all(ends)
