"""What a draft has still to be told of the target's distributions: a run without a gap that ends with the text."""

from __future__ import annotations

from orchestrator.target_laws import TargetLaws
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
