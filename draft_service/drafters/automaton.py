"""A suffix automaton: of a text that grows at its end, which end of it has been there before.

Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text"; as drafter: SAM-Decoding (arXiv
2411.10666). A state is a set of pieces of the text that end at the same places. Its link is the state of its longest
end that ends elsewhere too; so the link of the whole text is the longest end of it that has been there before.
"""

from __future__ import annotations

from array import array


class SuffixAutomaton:
    """Takes one token after the other, each in constant time on average over any text (at most 2 n states and 3 n
    transitions for n tokens)."""

    def __init__(self) -> None:
        # By state, 0 being that of the empty piece.
        self._next: list[dict[int, int]] = [{}]
        self._link = array("i", [-1])
        self._length = array("i", [0])  # of its longest piece
        self._end = array("i", [0])  # how many tokens there were where its pieces ended first
        self._last = 0

    def __len__(self) -> int:
        """Tokens."""
        return self._length[self._last]

    @property
    def states(self) -> int:
        return len(self._next)

    def append(self, token: int) -> None:
        size = len(self) + 1
        new = self._state({}, size, size)
        state = self._last
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        self._link[new] = self._linked(state, token) if state >= 0 else 0
        self._last = new

    def longest(self) -> tuple[int, int]:
        """Tokens of the longest end of the text that has been there before, and where that ended for the first time, as
        a number of tokens: what followed it then is the token at this index. (0, 0) where there is none."""
        state = self._link[self._last]
        return (self._length[state], self._end[state]) if state > 0 else (0, 0)

    def _linked(self, state: int, token: int) -> int:
        """The state of the longest piece of `state` with the token behind it, made out of a larger one if need be."""
        found = self._next[state][token]
        if self._length[found] == self._length[state] + 1:
            return found
        part = self._state(dict(self._next[found]), self._length[state] + 1, self._end[found])
        self._link[part] = self._link[found]
        self._link[found] = part
        while state >= 0 and self._next[state].get(token) == found:
            self._next[state][token] = part
            state = self._link[state]
        return part

    def _state(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._link.append(-1)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1
