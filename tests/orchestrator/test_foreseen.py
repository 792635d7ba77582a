"""Blocks made ahead: put together exactly, used only for the outcome that they were made for, cut as the draft cuts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from orchestrator.answers import MalformedAnswerError, check_ahead, check_branch
from orchestrator.look_ahead.asking import Asking
from orchestrator.look_ahead.corrections import CorrectionShares
from orchestrator.look_ahead.foreseen import Ahead, Base, Foreseen, cut
from tandem.v1 import block_pb2, draft_pb2

END, MOST, AFTER, BEFORE, OPEN = (
    draft_pb2.DRAFT_STOP_END_TOKEN,
    draft_pb2.DRAFT_STOP_MAX_TOKENS,
    draft_pb2.DRAFT_STOP_ENTROPY_AFTER,
    draft_pb2.DRAFT_STOP_ENTROPY_BEFORE,
    draft_pb2.DRAFT_STOP_UNSPECIFIED,
)
VOCABULARY = 10
OPENING = draft_pb2.DraftOpen(handshake={"expected": {"vocabulary_size": VOCABULARY}}, verification=1)


def branch(
    kept: int, token: int, *candidates: int, sent: int = 0, stop: int = OPEN, entropy: float = 1.0, position: int = 20
) -> dict[str, Any]:
    """position: of the base's first candidate."""
    return {
        "kept": kept, "token_id": token, "sent": sent, "stop": stop,
        "block": {
            "position": position + kept + 1 + sent,
            "token_ids": candidates,
            "log_probabilities": [-0.5] * len(candidates),
            "entropies": [entropy] * len(candidates),
        },
    }  # fmt: skip


def message(*branches: dict[str, Any], round_number: int = 7) -> draft_pb2.DraftedAhead:
    return draft_pb2.DraftedAhead(round=round_number, branches=branches)


def foreseen(**asked: Any) -> Foreseen:
    """Of round 7, whose block has at most 3 candidates, from position 20 on."""
    found = Foreseen()
    limits = {"max_branches": 4, "limits": {"max_tokens": 3}, "max_bytes": 1000, **asked}
    found.begin(Base(7, 20, 3, draft_pb2.LookAhead(**limits), partial(check_branch, OPENING)))
    return found


def test_a_block_is_put_together_from_what_came() -> None:
    found = foreseen()
    found.add(message(branch(2, 5, 1), branch(0, 4)))
    found.add(message(branch(2, 5, 2, 3, sent=1, stop=MOST), branch(2, 6, 8)))
    ahead = found.take((2, 5))
    assert ahead is not None and ahead.stop == MOST and ahead.refused_entropy is None
    assert ahead.block.position == 23 and list(ahead.block.token_ids) == [1, 2, 3]
    assert len(ahead.block.entropies) == len(ahead.block.log_probabilities) == 3
    assert found.take((2, 7)) is None and found.take((1, 5)) is None
    assert found.tokens_after(2) == [5, 6] and found.tokens_after(1) == []
    assert found.pushed.tokens == 4
    assert found.pushed.size == found.size > 0


@pytest.mark.parametrize("sent", [0, 2])
def test_a_block_with_a_hole_is_not_used_nor_mended(sent: int) -> None:
    found = foreseen()
    found.add(message(branch(1, 5, 1), branch(1, 6, 2)))
    found.add(message(branch(1, 5, 2, sent=sent)))
    found.add(message(branch(1, 5, 3, sent=1)))
    assert found.take((1, 5)) is None
    assert found.take((1, 6)) is not None


def test_a_block_that_has_ended_does_not_grow() -> None:
    found = foreseen()
    found.add(message(branch(1, 5, 1, stop=END)))
    found.add(message(branch(1, 5, 2, sent=1)))
    assert found.take((1, 5)) is None


def test_what_comes_of_an_older_block_is_counted_and_dropped() -> None:
    found = foreseen()
    found.add(message(branch(1, 5, 1), round_number=6))
    assert found.take((1, 5)) is None and found.pushed.stale == 1 and found.size == 0
    found.add(message(branch(1, 5, 1)))
    found.begin(Base(8, 22, 3, draft_pb2.LookAhead(max_branches=1, limits={"max_tokens": 1})))
    assert found.take((1, 5)) is None
    found.begin(None)
    found.add(message(branch(1, 5, 1)))
    assert found.take((1, 5)) is None and found.pushed.stale == 2


def test_what_may_come_passes() -> None:
    found = foreseen()
    for each in (
        message(branch(0, 4, 1, 2), branch(3, 4, stop=END)),
        message(branch(0, 4, 1, sent=2)),
        message(branch(2, 99, 77), round_number=3),
    ):
        check_ahead(found, each)
        found.add(each)
    for outcome in found.outcomes:
        assert found.take(outcome) is not None


@pytest.mark.parametrize(
    "said",
    [
        message(branch(0, 4, 1), round_number=8),
        message(),
        message(branch(0, 4, 1), branch(0, 4, 2)),
        message(*(branch(0, token, 1) for token in range(5))),
    ],
)
def test_what_cannot_be_said_ahead_is_refused(said: draft_pb2.DraftedAhead) -> None:
    with pytest.raises(MalformedAnswerError):
        check_ahead(foreseen(), said)


@pytest.mark.parametrize(
    "said",
    [
        message(branch(0, VOCABULARY, 1)),
        message(branch(0, 4, VOCABULARY)),
        message(branch(4, 4, 1)),
        message(branch(0, 4, 1, position=19)),
        message(branch(0, 4, 1, 2, 3, 4)),
        message(branch(0, 4, 1, 2, sent=2)),
        message(branch(0, 4)),
        message(branch(0, 4, 1, entropy=float("nan"))),
        message(branch(0, 4, 1, entropy=-1.0)),
        message({**branch(0, 4, 1), "refused_entropy": float("nan")}),
        message({**branch(0, 4, 1), "block": {"position": 21, "token_ids": [1]}}),
    ],
)  # fmt: skip
def test_what_cannot_be_a_block_is_refused_once_it_is_wanted(said: draft_pb2.DraftedAhead) -> None:
    found = foreseen()
    check_ahead(found, said)
    found.add(said)
    (outcome,) = found.outcomes
    with pytest.raises(MalformedAnswerError):
        found.take(outcome)


def test_more_than_was_allowed_is_refused() -> None:
    found = foreseen(max_branches=2, max_bytes=message(branch(0, 4, 1)).ByteSize() * 2)
    for each in (branch(0, 4, 1), branch(0, 5, 1)):
        check_ahead(found, message(each))
        found.add(message(each))
    with pytest.raises(MalformedAnswerError, match="bytes"):
        check_ahead(found, message(branch(0, 4, 1, sent=1)))
    found = foreseen(max_branches=1)
    found.add(message(branch(0, 4, 1)))
    with pytest.raises(MalformedAnswerError, match="outcomes"):
        check_ahead(found, message(branch(0, 5, 1)))


def test_there_is_an_end_to_what_is_said_of_old_blocks() -> None:
    found, old = foreseen(), message(branch(0, 4, 1), round_number=2)
    with pytest.raises(MalformedAnswerError, match="old rounds"):
        for _ in range(10_000):
            check_ahead(found, old)
            found.add(old)


def ahead(*entropies: float, stop: int = OPEN, refused: float | None = None) -> Ahead:
    size = len(entropies)
    block = block_pb2.Block(position=5, token_ids=range(size), log_probabilities=[-0.5] * size, entropies=entropies)
    return Ahead(block, stop, refused)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "limits", "size", "whole", "ended"),
    [
        (ahead(1, 1, 1), {"max_tokens": 2}, 2, True, True),
        (ahead(1, 1), {"max_tokens": 2}, 2, True, True),
        (ahead(1, 1), {"max_tokens": 3}, 2, False, False),
        (ahead(1, 1, stop=MOST), {"max_tokens": 3}, 2, False, False),
        (ahead(1, 1, stop=END), {"max_tokens": 3}, 2, True, True),
        # Ended by a limit that is another by now.
        (ahead(1, 2, stop=AFTER), {"max_tokens": 3, "max_entropy_after": 3.0}, 2, False, True),
        # A limit before a candidate cuts it off, one after it keeps it.
        (ahead(1, 2, 1), {"max_tokens": 3, "max_entropy_before": 1.5}, 1, True, True),
        (ahead(2, 1, 1), {"max_tokens": 3, "max_entropy_before": 1.5}, 0, True, True),
        (ahead(1, 2, 1), {"max_tokens": 3, "max_entropy_after": 1.5}, 2, True, True),
        (ahead(1, 2, 1), {"max_tokens": 3, "max_entropy_after": 1.5, "min_tokens": 3}, 3, True, True),
        (ahead(1, 1, 1), {"max_tokens": 3, "min_joint_probability": 0.5}, 2, True, True),
        (ahead(1, 1, 1), {"max_tokens": 3, "min_probability": 0.7}, 1, True, True),
        (ahead(), {"max_tokens": 3}, 0, False, False),
        # Ended before a candidate, as it would be by now, or not.
        (ahead(1, stop=BEFORE, refused=2), {"max_tokens": 3, "max_entropy_before": 1.9}, 1, True, True),
        (ahead(1, stop=BEFORE, refused=2), {"max_tokens": 3, "max_entropy_before": 2.1}, 1, False, True),
        (ahead(1, stop=BEFORE), {"max_tokens": 3, "max_entropy_before": 1.9}, 1, False, True),
    ],
)  # fmt: skip
def test_a_block_is_cut_by_the_limits_of_its_round(
    made: Ahead, limits: dict[str, float], size: int, whole: bool, ended: bool
) -> None:
    found = cut(made, draft_pb2.DraftLimits(**limits))
    assert list(found.block.token_ids) == list(range(size)) and found.block.position == 5
    assert len(found.block.entropies) == len(found.block.log_probabilities) == size
    assert (found.is_whole, found.is_ended) == (whole, ended)


def test_shares_are_those_of_the_ranks_that_came_true() -> None:
    shares = CorrectionShares()
    first = shares.values()
    assert len(first) <= 16 and sum(first) <= 1 and first == sorted(first, reverse=True)
    for at in range(2000):  # of four rejections one was corrected by the second best, three by none
        shares.add([5, 6], 6 if at % 4 == 0 else 9)
    assert shares.values()[0] == pytest.approx(0.0, abs=0.01)
    assert shares.values()[1] == pytest.approx(0.25, abs=0.03)
    assert sum(shares.values()) <= 1


def test_ranks_that_were_not_foreseen_are_not_counted_against() -> None:
    shares = CorrectionShares()
    second = shares.values()[1] / (1 - shares.values()[0])
    for _ in range(100):
        shares.add([5], 9)
    assert shares.values()[1] / (1 - shares.values()[0]) == pytest.approx(second)


def test_asking_pays_where_more_is_expected_of_it_than_of_its_time() -> None:
    asking = Asking()
    assert asking.pays(1.0, 0.9, 3)  # nothing is known
    asking.answered(block_pb2.Timing(compute_microseconds=8000, steps=4), 0.028)
    asking.round_ended(4, 0.04)  # 100 tokens a second
    assert asking.seconds(3) == pytest.approx(0.02 + 3 * 0.002)
    assert asking.pays(1.0, 1.0, 3)  # 3 tokens for 2.6
    assert not asking.pays(1.0, 0.9, 3)  # 2.44
    assert not asking.pays(0.5, 1.0, 3)
