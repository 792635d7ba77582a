"""How long a draft is waited for, and when it is left alone."""

from __future__ import annotations

import pytest

from orchestrator.pace import Chunks, Patience, Worth


def test_what_is_steady_is_waited_for_hardly_longer_than_it_takes() -> None:
    patience = Patience(0.05, first=10.0)
    assert patience.seconds(5) == pytest.approx(10.05)
    patience.expects(0.3)
    assert patience.seconds(5) == pytest.approx(0.35)
    for _ in range(100):
        patience.saw(0.02, 5)
    assert patience.seconds(5) == pytest.approx(0.07, abs=0.002)


def test_what_varies_is_given_room() -> None:
    patience = Patience(0.05, first=10.0)
    for _ in range(50):
        patience.saw(0.02, 3)
        patience.saw(0.06, 3)
    assert patience.seconds(3) > 0.11


def test_a_larger_block_than_of_late_is_given_its_time() -> None:
    patience = Patience(0.0, first=10.0)
    for _ in range(100):
        patience.saw(0.02, 1)
    assert patience.seconds(1) == pytest.approx(0.02, abs=0.002)
    assert patience.seconds(19) == pytest.approx(0.2, abs=0.02)


def test_one_that_becomes_slower_is_not_late_for_ever() -> None:
    patience = Patience(0.05, first=1.0)
    for _ in range(50):
        patience.saw(0.02, 3)
    late = 0
    while patience.seconds(3) < 0.5:
        patience.saw(0.5, 3)
        late += 1
    assert late <= 3


def test_a_draft_that_cannot_help_is_left_alone_for_ever_longer() -> None:
    worth, pauses = Worth(), []
    for _ in range(20):
        worth.alone(0.01)
    for _ in range(60):
        worth.round(3, 0.2, 0.012)  # four tokens alone would have taken 0.04
        if worth.left:
            pauses.append(worth.left)
            for _ in range(worth.left):
                worth.alone(0.01)
            assert not worth.left
    assert pauses[:5] == [32, 64, 128, 256, 512] and max(pauses) == 512


def test_a_draft_that_can_help_is_not_whatever_is_accepted() -> None:
    worth = Worth()
    for _ in range(200):
        worth.round(3, 0.03, 0.012)
        assert not worth.left


def test_hiccups_are_not_slowness() -> None:
    worth = Worth()
    for number in range(200):
        worth.round(3, 2.0 if number % 2 else 0.03, 0.012)
        assert not worth.left


def test_one_that_was_slow_has_to_be_quicker_than_the_target_to_be_used_again() -> None:
    worth = Worth()
    for _ in range(6):
        worth.round(3, 0.2, 0.01)
    for _ in range(worth.left):
        worth.alone(0.01)
    for _ in range(3):
        worth.round(3, 0.05, 0.01)  # not by so much that it would have been left
    assert worth.left == 64
    for _ in range(worth.left):
        worth.alone(0.01)
    for _ in range(30):
        worth.round(3, 0.03, 0.01)
    assert not worth.left


def test_chunks_grow_while_there_is_no_draft() -> None:
    chunks = Chunks()
    assert [chunks.next() for _ in range(5)] == [4, 8, 16, 32, 32]
    chunks.anew()
    assert chunks.next() == 4
