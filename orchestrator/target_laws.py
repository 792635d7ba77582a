"""What the target has said at the positions of a text and the draft has still to be told.

Some drafters learn from its distributions, some are fed with its features (`target_entries` of DraftOpened, `fed_with`
of ModelInfo). What matters is only how well they draft: where something is missing, they know less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

#: Positions that a draft may ask features of at first.
MOST_FEATURES = 256
# Of the text's last tokens: what is older is not told after a while without the draft.
_MOST = 256


@dataclass(frozen=True, slots=True)
class Wants:
    """What a draft wants to be told. entries: of the target's distribution at each position. features: whether those
    that it is made of, and at first of how many positions. 0 for none."""

    entries: int = 0
    features: int = 0


#: Of a draft that is told nothing.
NOTHING = Wants()


class TargetLaws(Generic[T]):
    """p at the positions of the text's last tokens, or the features that it is made of, without a gap."""

    def __init__(self, most: int = _MOST) -> None:
        self._laws: deque[T] = deque(maxlen=most)

    def add(self, laws: Sequence[T], committed: int, before: Sequence[T] = ()) -> None:
        """So many tokens have been committed; laws: at their positions, none where they were not asked for. before: at
        the positions before them, which are of use where nothing else is known there."""
        if len(laws) < committed:
            self._laws.clear()
        else:
            if not self._laws:
                self._laws.extend(before)
            self._laws.extend(laws[:committed])

    def rewind(self, length: int, before: int, now: int) -> None:
        """Of a text of `before` tokens the first `length` are left, and others have followed: `now` there are so many.
        What was said at a position holds for whatever token came there."""
        known = min(length + 1, before, now)
        if now > known:  # nothing was said at the positions between
            self._laws.clear()
        for _ in range(min(before - known, len(self._laws))):
            self._laws.pop()

    def take(self) -> list[T]:
        """All of them, which the draft is told now."""
        laws = list(self._laws)
        self._laws.clear()
        return laws


def feature_rows(data: bytes, width: int) -> list[bytes]:
    """Those of each position; data: as they travel. width: numbers of one, of two bytes each; 0 for no features."""
    return [data[at : at + 2 * width] for at in range(0, len(data), 2 * width)] if width else []
