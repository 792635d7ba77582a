"""From tokens to text for the caller: whole characters only, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.tokenization import IncrementalDecoder


class TextStream:
    """Decodes tokens as they come and watches for stop texts, which may lie across tokens and blocks.

    Text that may be the beginning of a stop text is held back until that is known.
    """

    def __init__(
        self, decoder: IncrementalDecoder, stops: Sequence[str], *, least_tokens: int = 0, include_stop: bool = False
    ) -> None:
        """least_tokens: of the text, before which no stop text is looked for, and in which none may begin.
        include_stop: whether the stop text is shown."""
        self._decoder = decoder
        self._stops = tuple(stops)
        self._unwatched = least_tokens
        self._include_stop = include_stop
        self._held = ""
        self.stopped_by = ""
        self.piece = ""  # what the last token completed, stop texts not looked at

    def push(self, token_id: int) -> str:
        """Text that is safe to show after this token. Sets `stopped_by` once a stop text is complete."""
        self.piece = self._decoder.push([token_id])
        if self._unwatched > 0:
            self._unwatched -= 1
            return self.piece
        self._held += self.piece
        return self._release()

    def flush(self) -> str:
        """The rest, at the end of the completion: what was held back turned out to be text."""
        if self.stopped_by:
            return ""
        self._held += self._decoder.flush()
        released = self._release()
        if not self.stopped_by:
            released, self._held = released + self._held, ""
        return released

    def _release(self) -> str:
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            # The first in the text wins; of those that start together, the longest (`min` by -len).
            at, self.stopped_by = min(found, key=lambda pair: (pair[0], -len(pair[1])))
            end = at + len(self.stopped_by) if self._include_stop else at
            released, self._held = self._held[:end], ""
            return released
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning (not all) of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
