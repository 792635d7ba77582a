"""What a run of fuzzing has seen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: Of its own: a defect. A peer's garbage must come to something else.
UNFAIR = ("INTERNAL", "UNKNOWN")


@dataclass
class Tally:
    """Of one service. messages: that were sent to it, hostile and good ones. streams: calls. statuses: how they ended.
    defects: what went wrong, with what it takes to see it again. good: texts of those who behaved, all right ones."""

    service: str
    messages: int = 0
    streams: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    good: int = 0
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown_bytes: int = 0

    def ended(self, status: str, details: str, where: str) -> None:
        """where: names the stream, for another run."""
        self.streams += 1
        self.statuses[status] += 1
        if status in UNFAIR:
            self.defects.append(f"{where}: {status}: {details[:200]}")

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "statuses": dict(self.statuses)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Tally:
        return cls(**{**found, "statuses": Counter(found["statuses"])})


class _Defects(logging.Handler):
    """Errors in the log: what a caller that has left is not told."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.ERROR)
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("grpc._common"):  # it logs each message that it cannot read
            return
        trace = f": {record.exc_info[1]!r}" if record.exc_info and record.exc_info[1] is not None else ""
        self._tally.defects.append(f"log of {record.name}: {record.getMessage()[:300]}{trace}")


@contextmanager
def logged_defects(tally: Tally) -> Iterator[None]:
    """Errors that are logged inside are defects."""
    handler = _Defects(tally)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def table(tallies: list[Tally]) -> str:
    """A line for each service, then its statuses, then what went wrong."""
    head = f"{'service':<24}{'messages':>10}{'streams':>10}{'good':>7}{'INTERNAL':>10}{'defects':>9}{'MiB':>7}{'s':>7}"
    lines = [head]
    for tally in tallies:
        internal = sum(tally.statuses[status] for status in UNFAIR)
        lines.append(
            f"{tally.service:<24}{tally.messages:>10}{tally.streams:>10}{tally.good:>7}{internal:>10}"
            f"{len(tally.defects):>9}{tally.grown_bytes / 2**20:>7.0f}{tally.seconds:>7.0f}"
        )
    for tally in tallies:
        found = ", ".join(f"{name} {count}" for name, count in tally.statuses.most_common())
        lines.append(f"{tally.service}: {found}")
    for tally in tallies:
        lines += [f"{tally.service}: {defect}" for defect in tally.defects[:20]]
    return "\n".join(lines)
