"""What became of each request, and which requests and tokens a window counts. Seconds of one clock throughout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy

from tandem.v1 import completion_pb2

#: Failure of a request that was due when as many as may be were under way already.
NOT_SENT = "not sent"


@dataclass(slots=True)
class Record:
    """One request.

    due: when it had to be sent; in a closed loop, when it was. arrivals: moment and tokens of each message.
    ended: None while it is under way. finish: of one that ended well. failure: the status of one that did not.
    """

    due: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    ended: float | None = None
    finish: completion_pb2.Finish | None = None
    failure: str | None = None

    @property
    def first_token_seconds(self) -> float | None:
        """From when it was due, as all times of a caller: what waits to be sent waits for the service, too."""
        return self.arrivals[0][0] - self.due if self.arrivals else None

    @property
    def per_token_seconds(self) -> float | None:
        """Between the first message's tokens and the last's, by the tokens that came after the first's."""
        after = sum(tokens for _, tokens in self.arrivals[1:])
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / after if after else None

    @property
    def latency_seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.due


@dataclass(frozen=True, slots=True)
class Window:
    """The time that counts: after `began`, up to and with `ended`. What ends with a window is in it, what one begins
    with is not: between two ends of one caller's requests lie whole requests."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def holds(self, moment: float | None) -> bool:
        return moment is not None and self.began < moment <= self.ended

    def tokens(self, records: Iterable[Record]) -> int:
        """That arrived inside, whenever their request began and whether or not it ended."""
        return sum(tokens for record in records for moment, tokens in record.arrivals if self.holds(moment))

    def completions(self, records: Iterable[Record]) -> int:
        """Requests that ended inside, and well."""
        return sum(record.failure is None and self.holds(record.ended) for record in records)

    def whole(self, records: Iterable[Record]) -> list[Record]:
        """Requests that began and ended inside: what a closed loop counts."""
        return [record for record in records if self.holds(record.due) and self.holds(record.ended)]

    def due(self, records: Iterable[Record]) -> list[Record]:
        """Requests that were due inside, whenever they ended: what an open loop counts. To leave out those that
        outlast the window would leave out the slow ones."""
        return [record for record in records if self.holds(record.due)]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest rank: each is a value that occurred, the least that so large a share of values does not exceed."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """None of no values. Of fewer than 20 the last two are the largest, of fewer than 100 the last is."""
        if not values:
            return None
        return cls(*(float(value) for value in numpy.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf")))
