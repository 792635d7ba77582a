"""What accept rules are told of each candidate are the target's numbers of its own position."""

from __future__ import annotations

import pytest

from orchestrator.acceptance import TargetNumbers
from orchestrator.judging import positions
from tandem.noise import NoiseStream
from tandem.v1.block_pb2 import Block
from tandem.v1.target_pb2 import VerifiedBlock


def test_each_candidate_has_the_numbers_of_its_position() -> None:
    block = Block(position=9, token_ids=[4, 6])
    verified = VerifiedBlock(
        round=3, position=9, acceptance_probabilities=[0.25, 0.0], correction_token_ids=[1, 2],
        target_token_ids=[1, 2, 3], log_probabilities=[-1.5, -2.5], max_log_probabilities=[-0.5, -0.25, -0.125],
        entropies=[1.25, 0.75, 0.5], top3_entropies=[1.0, 0.625, 0.375], in_support=[True, False],
    )  # fmt: skip
    first, second = positions(block, verified, NoiseStream(1), frozenset({6}))
    assert first.target == TargetNumbers(log_p=-1.5, max_log_p=-0.5, entropy=1.25, top3_entropy=1.0)
    assert second.target == TargetNumbers(log_p=-2.5, max_log_p=-0.25, entropy=0.75, top3_entropy=0.625)
    assert (first.in_support, second.in_support, first.exact_only, second.exact_only) == (True, False, False, True)
    assert 0 < first.u < 1 and second.u == 0 and first.acceptance == pytest.approx(0.25)
