"""Which end of a text has been there before: by hand, and against looking at all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from draft_service.drafters.automaton import SuffixAutomaton


def automaton(text: list[int]) -> SuffixAutomaton:
    made = SuffixAutomaton()
    for token in text:
        made.append(token)
    return made


def test_the_longest_end_that_has_been_there_goes_on_as_it_did_then() -> None:
    """a b c b c: its end `b c` stood at 1 and 2, so that it ended before index 3, where `b` followed."""
    assert automaton([1, 2, 3, 2, 3]).longest() == (2, 3)
    # a b c b: only `b` has been there, and `c` followed it at index 2.
    assert automaton([1, 2, 3, 2]).longest() == (1, 2)
    assert automaton([1, 2, 3]).longest() == automaton([]).longest() == (0, 0)
    # It may overlap itself: a a a has `a a` at its start.
    assert automaton([7, 7, 7]).longest() == (2, 2)


@given(st.lists(st.integers(0, 2), max_size=40))
def test_it_finds_what_a_search_finds(text: list[int]) -> None:
    made = SuffixAutomaton()
    for size, token in enumerate(text, 1):
        made.append(token)
        found = (0, 0)
        for length in range(1, size):
            ends = [end for end in range(length, size) if text[end - length : end] == text[size - length : size]]
            found = (length, ends[0]) if ends else found
        assert made.longest() == found
        assert len(made) == size and made.states <= 2 * size + 1
