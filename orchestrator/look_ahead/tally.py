"""What came of looking ahead, for the account of a completion."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.look_ahead.foreseen import Pushed
from tandem.v1 import completion_pb2


class Found(StrEnum):
    """What was there when a block's outcome was known. As the metrics have it."""

    #: The next block.
    HIT = "hit"
    #: Nothing yet, for no outcome.
    TOO_LATE = "too_late"
    #: Nothing for so many kept candidates.
    NO_BRANCH = "no_branch"
    #: Blocks for other tokens after these.
    OTHER_TOKEN = "other_token"
    #: A block that was not worth its verification.
    SHORT = "short"


@dataclass(slots=True)
class Tally:
    """pushed: what came. found: by what was there, and whether all candidates had been kept. taken: candidates that
    were verified. hidden: seconds that asking for them would have taken."""

    pushed: Pushed
    found: Counter[tuple[Found, bool]] = field(default_factory=Counter)
    taken: int = 0
    hidden: float = 0.0

    def message(self) -> completion_pb2.LookAheadReport:
        def misses(*, all_kept: bool) -> int:
            return sum(count for (found, kept), count in self.found.items() if found != Found.HIT and kept == all_kept)

        def both(found: Found) -> int:
            return self.found[found, True] + self.found[found, False]

        return completion_pb2.LookAheadReport(
            hits_all_kept=self.found[Found.HIT, True],
            hits_rejected=self.found[Found.HIT, False],
            misses_all_kept=misses(all_kept=True),
            misses_rejected=misses(all_kept=False),
            misses_too_late=both(Found.TOO_LATE),
            misses_no_branch=both(Found.NO_BRANCH),
            misses_other_token=both(Found.OTHER_TOKEN),
            misses_short=both(Found.SHORT),
            pushed_tokens=self.pushed.tokens,
            taken_tokens=self.taken,
            pushed_bytes=self.pushed.size,
            stale_messages=self.pushed.stale,
            hidden_microseconds=round(self.hidden * 1e6),
        )
