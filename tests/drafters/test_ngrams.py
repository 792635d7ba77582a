"""The table of STAND, computed by hand."""

from __future__ import annotations

import pytest

from draft_service.drafters.ngrams import WIDTH, NgramTable


def law(found: list[tuple[int, float]] | None) -> dict[int, float]:
    assert found is not None
    return {token: pytest.approx(share) for token, share in found}


def test_what_was_seen_k_times_keeps_k_of_k_plus_1() -> None:
    """Three times after (1, 2): (.6 + .2 + .4) / 3 of 7, (.4 + 0 + .5) / 3 of 8, (0 + .8 + .1) / 3 of 9."""
    table = NgramTable(100)
    table.learn([1, 2], [(7, 0.6), (8, 0.4)])
    assert table.following([1, 2]) == [(7, 0.6), (8, 0.4)]
    table.learn([1, 2], [(9, 0.8), (7, 0.2)])
    assert law(table.following([1, 2])) == {7: 0.4, 8: 0.2, 9: 0.4}
    table.learn([1, 2], [(8, 0.5), (7, 0.4), (9, 0.1)])
    assert law(table.following([1, 2])) == {7: 0.4, 8: 0.3, 9: 0.3}


def test_the_longest_context_that_is_known_is_looked_up() -> None:
    table = NgramTable(100)
    table.learn([1, 2, 3, 4], [(5, 1.0)])
    table.learn([9, 2, 3, 4], [(6, 1.0)])
    assert table.following([1, 2, 3, 4]) == [(5, 1.0)]
    assert table.following([9, 2, 3, 4]) == [(6, 1.0)]
    assert law(table.following([8, 2, 3, 4])) == {5: 0.5, 6: 0.5}  # both began with (2, 3, 4)
    assert law(table.following([3, 4])) == {5: 0.5, 6: 0.5}
    assert table.following([4]) is None and table.following([4, 3]) is None
    assert len(table) == 4  # two of four tokens, one of three, one of two


def test_ten_tokens_are_kept_and_the_likeliest_of_old_and_new_stay() -> None:
    table = NgramTable(100)
    table.learn([1, 2], [(token, 0.05) for token in range(12)])
    assert [token for token, _ in table.following([1, 2]) or ()] == list(range(WIDTH))
    table.learn([1, 2], [(50, 0.9)])
    found = table.following([1, 2]) or []
    assert found[0] == (50, pytest.approx(0.45)) and len(found) == WIDTH
    assert [token for token, _ in found[1:]] == list(range(WIDTH - 1))


def test_a_full_table_forgets_what_was_learnt_longest_ago() -> None:
    table = NgramTable(3)
    for first in (1, 2, 3):
        table.learn([first, 0], [(first, 1.0)])
    table.learn([1, 0], [(1, 1.0)])
    table.learn([4, 0], [(4, 1.0)])
    assert len(table) == 3 and table.following([2, 0]) is None
    assert all(table.following([first, 0]) == [(first, 1.0)] for first in (1, 3, 4))
