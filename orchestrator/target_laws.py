"""What the target has said of its distributions and the draft has still to be told.

Some drafters learn from it (`target_entries` of DraftOpened). What matters is only how well they draft: where something
is missing, they know less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tandem.v1 import distribution_pb2

# Of the text's last tokens: what is older is not told after a while without the draft.
_MOST = 256


class TargetLaws:
    """p at the positions of the text's last tokens, without a gap."""

    def __init__(self) -> None:
        self._laws: deque[distribution_pb2.CompressedDistribution] = deque(maxlen=_MOST)

    def add(self, laws: Sequence[distribution_pb2.CompressedDistribution], committed: int) -> None:
        """So many tokens have been committed; laws: at their positions, none where they were not asked for."""
        if len(laws) < committed:
            self._laws.clear()
        else:
            self._laws.extend(laws[:committed])

    def rewind(self, length: int, before: int, now: int) -> None:
        """Of a text of `before` tokens the first `length` are left, and others have followed: `now` there are so many.
        What was said at a position holds for whatever token came there."""
        known = min(length + 1, before, now)
        if now > known:  # nothing was said at the positions between
            self._laws.clear()
        for _ in range(min(before - known, len(self._laws))):
            self._laws.pop()

    def take(self) -> list[distribution_pb2.CompressedDistribution]:
        """All of them, which the draft is told now."""
        laws = list(self._laws)
        self._laws.clear()
        return laws
