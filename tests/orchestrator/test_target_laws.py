"""What a draft has still to be told of the target's distributions: a run without a gap that ends with the text."""

from __future__ import annotations

import pytest

from orchestrator.target_laws import TargetLaws, feature_rows
from tandem.v1.distribution_pb2 import CompressedDistribution


def laws(*names: int) -> list[CompressedDistribution]:
    return [CompressedDistribution(token_ids=bytes([name % 256, 0, 0, name // 256])) for name in names]


def test_they_are_told_once_and_in_order() -> None:
    waiting = TargetLaws()
    waiting.add(laws(1, 2), 2)
    waiting.add(laws(3), 1)
    assert waiting.take() == laws(1, 2, 3)
    assert waiting.take() == []


def test_what_was_before_a_token_without_one_is_of_no_use() -> None:
    waiting = TargetLaws()
    waiting.add(laws(1, 2), 2)
    waiting.add([], 1)
    waiting.add(laws(4, 5, 6), 2)  # of candidates that were not kept there may be more
    assert waiting.take() == laws(4, 5)


def test_of_many_the_last_ones_are_told() -> None:
    waiting = TargetLaws()
    for name in range(1000):
        waiting.add(laws(name), 1)
    assert waiting.take() == laws(*range(744, 1000))


@pytest.mark.parametrize(
    ("length", "now", "left"),
    [
        (2, 3, (1, 2, 3)),  # what came in the place of the third is judged by the same law
        (2, 2, (1, 2)),
        (4, 4, (1, 2, 3, 4)),
        (0, 1, (1,)),
        (4, 5, ()),  # nothing was said where the fifth came
        (2, 4, ()),
    ],
)
def test_of_a_text_that_is_taken_back_those_that_still_hold_are_told(
    length: int, now: int, left: tuple[int, ...]
) -> None:
    waiting = TargetLaws()
    waiting.add(laws(1, 2, 3, 4), 4)
    waiting.rewind(length, 4, now)
    waiting.add(laws(9), 1)
    assert waiting.take() == laws(*left, 9)


def test_of_those_that_were_told_already_none_is_taken_back() -> None:
    waiting = TargetLaws()
    waiting.add(laws(1, 2), 2)
    waiting.take()
    waiting.add(laws(3), 1)
    waiting.rewind(1, 3, 2)
    assert waiting.take() == []


def test_what_was_said_of_positions_before_is_of_use_where_nothing_else_waits() -> None:
    waiting = TargetLaws[bytes](4)
    waiting.add([b"c", b"d", b"x"], 2, before=[b"a", b"b"])
    assert waiting.take() == [b"a", b"b", b"c", b"d"]
    waiting.add([b"e"], 1)
    waiting.add([b"f"], 1, before=[b"d", b"e"])
    assert waiting.take() == [b"e", b"f"]
    waiting.add([b"2", b"3", b"4"], 3, before=[b"0", b"1"])
    assert waiting.take() == [b"1", b"2", b"3", b"4"]


def test_features_come_apart_by_their_width() -> None:
    assert feature_rows(b"aabbccdd", 2) == [b"aabb", b"ccdd"]
    assert feature_rows(b"", 2) == feature_rows(b"", 0) == []
