"""What sequences have in common for which nothing is drafted ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from draft_service.drafters.base import Ahead
from tandem.v1 import draft_pb2


class NothingAhead:
    """A part of `base.DraftSequence`."""

    def look_ahead(
        self,
        tokens: Sequence[int],
        round_number: int,
        plan: draft_pb2.LookAhead,
        grown: Callable[[], None],
    ) -> None:
        """Drafts nothing."""

    def ahead(self) -> Sequence[Ahead]:
        return ()

    def freeze_ahead(self) -> None:
        """There is nothing."""

    def foreseen(self, position: int, token: int) -> int | None:
        return None

    def take(self, position: int, token: int, used: int, tokens: Sequence[int]) -> list[int]:
        raise ValueError("no such block was sent")
