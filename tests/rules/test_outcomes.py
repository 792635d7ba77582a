"""Which outcomes of a block get a branch: computed by hand."""

from __future__ import annotations

import pytest

from draft_service.drafters.outcomes import ACCEPTANCE, Outcome, Ranking, geometric, likeliest, main_line

ACCEPTANCES = (0.5, 0.8)  # their mean is .65
SHARES = (0.6, 0.3)
CHOICES = (2, 2, 8)


def told(found: list[Outcome]) -> list[tuple[int, int, float]]:
    return [(outcome.kept, outcome.rank, round(outcome.probability, 6)) for outcome in found]


def test_the_likeliest_outcomes_come_first() -> None:
    """None is kept with .5, one with .1, both with .4, of which the draft's own token follows .65."""
    found = told(likeliest(ACCEPTANCES, SHARES, CHOICES, 64))
    assert found == [
        (0, 0, 0.3), (2, 0, 0.26), (0, 1, 0.15), (2, 1, 0.084), (1, 0, 0.06), (2, 2, 0.042), (1, 1, 0.03),
    ]  # fmt: skip
    assert told(likeliest(ACCEPTANCES, SHARES, CHOICES, 3)) == found[:3]


def test_an_outcome_without_a_token_is_none() -> None:
    assert told(likeliest(ACCEPTANCES, SHARES, (1, 0, 0), 64)) == [(0, 0, 0.3)]


def test_after_an_empty_block_the_next_token_is_foreseen() -> None:
    assert told(likeliest((), SHARES, (8,), 2)) == [
        (0, 0, ACCEPTANCE),
        (0, 1, round((1 - ACCEPTANCE) * 0.6, 6)),
    ]


def test_a_geometric_fan_out_follows_the_mean_acceptance() -> None:
    """Shares as 1, .806 and 1.099 of 7 tokens: 2, 2 and 3, the first of which are those of the likeliest."""
    shares = (0.4, 0.2, 0.1, 0.1)
    found = geometric(ACCEPTANCES, shares, (4, 4, 4), 7)
    assert sorted((outcome.kept, outcome.rank) for outcome in found) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    known = {(outcome.kept, outcome.rank): outcome for outcome in likeliest(ACCEPTANCES, shares, (4, 4, 4), 64)}
    assert all(known[outcome.kept, outcome.rank] == outcome for outcome in found)
    # Where tokens are short, the others get what is left.
    assert len(geometric(ACCEPTANCES, shares, (4, 1, 4), 9)) == 9
    assert len(geometric(ACCEPTANCES, shares, (1, 1, 1), 9)) == 3


def test_the_main_line_is_one_outcome() -> None:
    assert told(main_line(ACCEPTANCES, SHARES, CHOICES, 64)) == [(2, 0, 0.26)]
    assert main_line(ACCEPTANCES, SHARES, (2, 2, 0), 64) == [] == main_line(ACCEPTANCES, SHARES, CHOICES, 0)


@pytest.mark.parametrize("ranking", [likeliest, geometric])
def test_all_outcomes_together_are_at_most_certain(ranking: Ranking) -> None:
    found = ranking((0.9, 0.4, 0.7), (0.5, 0.3, 0.2), (3, 3, 3, 4), 64)
    assert sum(outcome.probability for outcome in found) == pytest.approx(1)
    assert [outcome.probability for outcome in found] == sorted((o.probability for o in found), reverse=True)
