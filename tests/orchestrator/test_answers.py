"""What a draft or a target may answer: every true answer passes, and each of the others is told from it."""

from __future__ import annotations

import math
import struct
import timeit
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.answers import (
    MalformedAnswerError,
    check_draft_opened,
    check_drafted,
    check_generated,
    check_resolved,
    check_rows,
    check_verified,
)
from tandem.v1 import distribution_pb2, draft_pb2, target_pb2

GREEDY, RATIO = 1, 2
NAN, INFINITY = math.nan, math.inf
VOCABULARY = 10
MODEL = {"expected": {"vocabulary_size": VOCABULARY}}

Change = Callable[[Any], object]


def row(*ids: int, logs: tuple[float, ...] = (), tail: float = 0.0) -> dict[str, Any]:
    logs = logs or (-1.0,) * len(ids)
    return {
        "token_ids": struct.pack(f"<{len(ids)}I", *ids),
        "log_probabilities": struct.pack(f"<{len(logs)}e", *logs),
        "tail_mass": tail,
    }


def verified() -> tuple[target_pb2.VerifyOpen, target_pb2.VerifyRound, target_pb2.VerifiedBlock]:
    """Two candidates under the greedy match: the first is right, the second is not."""
    opening = target_pb2.VerifyOpen(handshake=MODEL, verification=GREEDY, log_probabilities=2)
    asked = target_pb2.VerifyRound(
        round=3, block={"position": 7, "token_ids": [4, 5], "distributions": [row(4, 1), row(5)]}
    )
    tops = [{"token_ids": [1, 2], "log_probabilities": [-0.5, -INFINITY]}] * 3
    answer = target_pb2.VerifiedBlock(
        round=3, position=7, acceptance_probabilities=[1, 0], correction_token_ids=[4, 6], target_token_ids=[4, 6, 9],
        log_probabilities=[-0.1, -INFINITY], max_log_probabilities=[-0.1, -1, 0.0004],
        target_log_probabilities=[-0.1, -1, 0], correction_log_probabilities=[-0.1, -1], entropies=[0.5, 2.3, -0.0004],
        top3_entropies=[0.4, 1.0986, 0], total_variations=[0.1, 1], distances_lower=[0, 0.4],
        distances_upper=[0.2, 0.4], in_support=[True, False],
        model={"candidates": [-0.1, -INFINITY], "targets": [-1, -1, -1], "corrections": [-1, -2], "top": tops},
        timing={"steps": 1, "step_sequences": 2, "step_tokens": 6, "compute_microseconds": 900},
    )  # fmt: skip
    return opening, asked, answer


def test_a_true_block_passes_and_takes_some_microseconds() -> None:
    arguments = verified()
    check_verified(*arguments)
    took = min(timeit.repeat(lambda: check_verified(*arguments), number=200, repeat=5)) / 200
    assert took < 500e-6, took  # some 20 on a machine that does nothing else


def nothing_asked(answer: target_pb2.VerifiedBlock) -> None:
    """An empty block, as an answer to one that is not."""
    answer.Clear()
    answer.round, answer.position = 3, 7


BLOCKS: dict[str, Change] = {
    "another round": lambda a: setattr(a, "round", 4),
    "another position": lambda a: setattr(a, "position", 8),
    "nothing": nothing_asked,
    "an acceptance more": lambda a: a.acceptance_probabilities.append(0),
    "no correction": lambda a: a.correction_token_ids.pop(),
    "no bonus": lambda a: a.target_token_ids.pop(),
    "a support less": lambda a: a.in_support.pop(),
    "no distances": lambda a: a.ClearField("distances_lower"),
    "a variation more": lambda a: a.total_variations.append(0),
    "entropies of candidates only": lambda a: a.entropies.pop(),
    "a token that does not exist": lambda a: a.target_token_ids.__setitem__(2, VOCABULARY),
    "a correction that does not exist": lambda a: a.correction_token_ids.__setitem__(1, 2**32 - 1),
    "an acceptance above 1": lambda a: a.acceptance_probabilities.__setitem__(0, 1.1),
    "an acceptance below 0": lambda a: a.acceptance_probabilities.__setitem__(1, -0.1),
    "an acceptance that is no number": lambda a: a.acceptance_probabilities.__setitem__(1, NAN),
    "an acceptance of what is not the token": lambda a: a.acceptance_probabilities.__setitem__(1, 1),
    "a rejection of what is the token": lambda a: a.acceptance_probabilities.__setitem__(0, 0),
    "a correction that is not the target's": lambda a: a.correction_token_ids.__setitem__(1, 3),
    "a logarithm above 0": lambda a: a.log_probabilities.__setitem__(0, 0.1),
    "a logarithm that is no number": lambda a: a.log_probabilities.__setitem__(0, NAN),
    "a largest logarithm of nothing": lambda a: a.max_log_probabilities.__setitem__(0, -INFINITY),
    "a token of probability 0": lambda a: a.target_log_probabilities.__setitem__(0, -INFINITY),
    "an infinite correction": lambda a: a.correction_log_probabilities.__setitem__(0, INFINITY),
    "a negative entropy": lambda a: a.entropies.__setitem__(1, -0.01),
    "an entropy above the uniform one": lambda a: a.entropies.__setitem__(1, 2.4),
    "an entropy of three above theirs": lambda a: a.top3_entropies.__setitem__(1, 1.2),
    "an entropy that is no number": lambda a: a.top3_entropies.__setitem__(2, NAN),
    "a negative distance": lambda a: a.distances_lower.__setitem__(0, -0.1),
    "a distance above 1": lambda a: a.distances_upper.__setitem__(1, 1.1),
    "bounds the wrong way round": lambda a: a.distances_lower.__setitem__(0, 0.3),
    "a distribution that nobody asked for": lambda a: a.distributions.add(),
    "nothing of the model": lambda a: a.ClearField("model"),
    "a model's candidate less": lambda a: a.model.candidates.pop(),
    "a model's logarithm above 0": lambda a: a.model.targets.__setitem__(0, 2),
    "the likeliest of too few positions": lambda a: a.model.top.pop(),
    "too many of the likeliest": lambda a: a.model.top[1].token_ids.append(3),
    "more tokens than logarithms": lambda a: a.model.top[1].log_probabilities.pop(),
    "a likeliest one that does not exist": lambda a: a.model.top[2].token_ids.__setitem__(0, VOCABULARY),
    "a likeliest one that is no number": lambda a: a.model.top[2].log_probabilities.__setitem__(0, NAN),
    "more passes than sequences": lambda a: setattr(a.timing, "steps", 3),
    "sequences without tokens": lambda a: setattr(a.timing, "step_tokens", 1),
    "a time of ages": lambda a: setattr(a.timing, "compute_microseconds", 2**63),
    "all considered, as if some were not": lambda a: setattr(a, "considered", 2),
    "more considered than there are": lambda a: setattr(a, "considered", 3),
    "one considered, and numbers of two": lambda a: setattr(a, "considered", 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_verified_block_that_cannot_be_is_refused(name: str) -> None:
    opening, asked, answer = verified()
    BLOCKS[name](answer)
    with pytest.raises(MalformedAnswerError):
        check_verified(opening, asked, answer)


def test_a_block_of_which_one_candidate_was_considered_has_numbers_of_that_one() -> None:
    opening, asked, answer = verified()
    opening.ClearField("log_probabilities")
    answer.ClearField("model")
    answer.considered = 1
    for field, value in answer.ListFields():
        if field.is_repeated:
            del value[-1:]
    check_verified(opening, asked, answer)
    answer.acceptance_probabilities[0] = 0
    with pytest.raises(MalformedAnswerError, match="rejects what is"):
        check_verified(opening, asked, answer)


def test_a_tree_of_which_not_all_was_considered_is_refused() -> None:
    opening, asked, answer = verified()
    asked.block.parents[:] = [-1, 0]
    check_verified(opening, asked, answer)
    answer.considered = 1
    with pytest.raises(MalformedAnswerError, match="of a tree"):
        check_verified(opening, asked, answer)


def test_what_was_not_asked_for_is_refused() -> None:
    opening, asked, answer = verified()
    opening.ClearField("log_probabilities")
    with pytest.raises(MalformedAnswerError, match="not asked for"):
        check_verified(opening, asked, answer)
    answer.ClearField("model")
    check_verified(opening, asked, answer)
    opening.log_probabilities = 0
    answer.model.candidates.extend([-1, -1])
    answer.model.targets.extend([-1, -1, -1])
    answer.model.corrections.extend([-1, -1])
    check_verified(opening, asked, answer)
    answer.model.top.add(token_ids=[1], log_probabilities=[-1])
    with pytest.raises(MalformedAnswerError, match="likeliest"):
        check_verified(opening, asked, answer)


def test_under_the_ratio_test_acceptances_lie_between_0_and_1() -> None:
    opening, asked, answer = verified()
    opening.verification = RATIO
    answer.acceptance_probabilities[:] = [0.3, 1.0]
    answer.correction_token_ids[0] = 2
    check_verified(opening, asked, answer)


def with_rows(*rows: dict[str, Any], opened: int = 0, wanted: int | None = 2) -> tuple[Any, ...]:
    """A block of which so many entries of p were asked for, at the opening or by the round."""
    opening, asked, answer = verified()
    opening.format.max_entries = opened
    if wanted is not None:
        asked.format.max_entries = wanted
    answer.distributions.extend(distribution_pb2.CompressedDistribution(**each) for each in rows)
    return opening, asked, answer


def test_distributions_of_the_target_are_those_that_were_asked_for() -> None:
    rows = [row(1, 2, tail=0.1), row(3), row(9, 0)]
    check_verified(*with_rows(*rows))
    check_verified(*with_rows(*rows, opened=2, wanted=None))
    check_verified(*with_rows(opened=2, wanted=0))
    for arguments in (
        with_rows(*rows[:2]), with_rows(), with_rows(*rows, wanted=None), with_rows(*rows, opened=2, wanted=0),
        with_rows(*rows, wanted=1), with_rows(*rows[:2], row(1, 1)), with_rows(*rows[:2], row(1, VOCABULARY)),
        with_rows(*rows[:2], row(1, logs=(0.5,))), with_rows(*rows[:2], row(1, tail=1.5)), with_rows(*rows[:2], {}),
    ):  # fmt: skip
        with pytest.raises(MalformedAnswerError):
            check_verified(*arguments)


def test_a_tokens_distribution_is_the_one_that_was_asked_for() -> None:
    asked = target_pb2.Generate()
    asked.CopyFrom(GENERATE)
    asked.format.max_entries = 2
    check_generated(OPENING, asked, generated(distribution=row(1, 2)), before=1, context_length=0)
    for fields in ({}, {"distribution": row(1, 2, 3)}, {"distribution": row(4, 4)}, {"distribution": {}}):
        with pytest.raises(MalformedAnswerError):
            check_generated(OPENING, asked, generated(**fields), before=1, context_length=0)


def test_a_draft_may_ask_for_some_of_the_targets_distributions() -> None:
    for entries in (0, 10, 64):
        check_draft_opened(draft_pb2.DraftOpened(target_entries=entries))
    with pytest.raises(MalformedAnswerError, match="65"):
        check_draft_opened(draft_pb2.DraftOpened(target_entries=65))


def generated(**fields: Any) -> target_pb2.GeneratedToken:
    usual = {"round": 2, "position": 6, "token_id": 4, "log_probability": -0.3, "entropy": 1.0}
    return target_pb2.GeneratedToken(**{**usual, **fields})


GENERATE = target_pb2.Generate(round=2, continuation={"position": 4, "token_ids": [1]}, max_tokens=3)
OPENING = target_pb2.VerifyOpen(handshake=MODEL, verification=GREEDY, stop_token_ids=[8])


@pytest.mark.parametrize(
    ("token", "before", "context"),
    [
        (generated(), 1, 0),
        (generated(token_id=8, last=True), 1, 0),
        (generated(position=7, last=True), 2, 0),
        (generated(last=True), 1, 7),
        (generated(), 1, 8),
    ],
)
def test_true_tokens_pass(token: target_pb2.GeneratedToken, before: int, context: int) -> None:
    check_generated(OPENING, GENERATE, token, before=before, context_length=context)


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ({"round": 3}, 1), ({}, 0), ({"position": 7}, 1), ({"token_id": 10}, 1), ({"log_probability": 0.1}, 1),
        ({"log_probability": NAN}, 1), ({"log_probability": -INFINITY}, 1), ({"entropy": -1}, 1),
        ({"entropy": NAN}, 1), ({"entropy": 3}, 1), ({"last": True}, 1), ({"token_id": 8}, 1), ({"position": 7}, 2),
        ({"distribution": {}}, 1), ({"model_log_probability": -1}, 1),
        ({"top": {"token_ids": [1], "log_probabilities": [-1]}}, 1), ({"timing": {"steps": 1}}, 1),
    ],
)  # fmt: skip
def test_a_token_that_cannot_be_is_refused(fields: dict[str, Any], before: int) -> None:
    with pytest.raises(MalformedAnswerError):
        check_generated(OPENING, GENERATE, generated(**fields), before=before, context_length=0)


def test_log_probabilities_of_a_token_are_those_that_were_asked_for() -> None:
    opening = target_pb2.VerifyOpen(handshake=MODEL, log_probabilities=1)
    top = {"token_ids": [1], "log_probabilities": [-1]}
    check_generated(
        opening, GENERATE, generated(model_log_probability=-1, top=top), before=1, context_length=0
    )
    for fields in (
        {}, {"model_log_probability": -1}, {"top": top}, {"model_log_probability": NAN, "top": top},
        {"model_log_probability": 0.5, "top": top}, {"model_log_probability": -1, "top": {"token_ids": [1]}},
    ):  # fmt: skip
        with pytest.raises(MalformedAnswerError):
            check_generated(opening, GENERATE, generated(**fields), before=1, context_length=0)


def test_distances_are_of_the_rows_that_were_sent() -> None:
    asked = target_pb2.ResolveDistances(round=2, rows=[{"index": 1}, {"index": 4}])
    good = {"round": 2, "indices": [1, 4], "distances": [0, 1], "total_variations": [0.5, 1.0004]}
    check_resolved(asked, target_pb2.ResolvedDistances(**good))
    for change in (
        {"round": 3}, {"indices": [1]}, {"indices": [4, 1]}, {"indices": [1, 4, 5]}, {"distances": [0]},
        {"total_variations": []}, {"distances": [0, 1.1]}, {"distances": [0, NAN]}, {"total_variations": [-0.2, 0]},
    ):  # fmt: skip
        with pytest.raises(MalformedAnswerError):
            check_resolved(asked, target_pb2.ResolvedDistances(**{**good, **change}))


def drafted(**block: Any) -> draft_pb2.DraftedBlock:
    usual = {
        "position": 6, "token_ids": [3, 9], "log_probabilities": [-0.1, 0.0004], "entropies": [1.0, -0.0004],
        "distributions": [row(2, 3), row(9)],
    }  # fmt: skip
    return draft_pb2.DraftedBlock(round=2, block={**usual, **block})


DRAFT = draft_pb2.DraftOpen(handshake=MODEL, verification=RATIO, format={"max_entries": 3})
ROUND = draft_pb2.DraftRound(
    round=2, continuation={"position": 4, "kept": 1, "token_ids": [1, 2]}, limits={"max_tokens": 2}
)


def test_true_blocks_pass() -> None:
    check_drafted(DRAFT, ROUND, drafted())
    nothing = {"token_ids": [], "log_probabilities": [], "entropies": [], "distributions": []}
    check_drafted(DRAFT, ROUND, drafted(**nothing))
    greedy = draft_pb2.DraftOpen(handshake=MODEL, verification=GREEDY, format={"max_entries": 3})
    check_drafted(greedy, ROUND, drafted(distributions=[row(1, 2, tail=0.5), row(9, tail=0.1)]))
    check_drafted(greedy, ROUND, drafted(distributions=[]))  # a drafter without distributions
    any_vocabulary = draft_pb2.DraftOpen(verification=GREEDY)
    check_drafted(any_vocabulary, ROUND, drafted(token_ids=[3, 2**32 - 1], distributions=[]))


# Of two ids the bytes of which hold a third, not at its place.
INSIDE = struct.unpack("<II", b"\0\0\0\x03\0\0\0\0")


@pytest.mark.parametrize(
    "block",
    [
        {"position": 7}, {"token_ids": [3, 10]}, {"token_ids": [3]}, {"log_probabilities": [-1]}, {"entropies": []},
        {"log_probabilities": [-1, 0.1]}, {"log_probabilities": [-1, NAN]}, {"log_probabilities": [-1, -INFINITY]},
        {"entropies": [1, -0.1]}, {"entropies": [1, NAN]}, {"entropies": [1, INFINITY]}, {"entropies": [1, 2.4]},
        {"distributions": []}, {"distributions": [row(3)]}, {"distributions": [row(3)] * 3},
        {"distributions": [row(2), row(9)]}, {"distributions": [row(3), row(9, tail=0.1)]},
        {"distributions": [row(3), row(9, 1, 2, 4)]}, {"distributions": [row(3), {}]},
        {"distributions": [row(3), row(9, logs=(-1.0, -1.0))]}, {"distributions": [row(3), row(9, logs=(0.5,))]},
        {"distributions": [row(3), row(9, logs=(NAN,))]}, {"distributions": [row(3), row(9, logs=(-INFINITY,))]},
        {"distributions": [row(3), row(9, 1, logs=(-2.0, -1.0))]}, {"distributions": [row(3), row(9, tail=NAN)]},
        {"distributions": [row(3), row(9, tail=-0.5)]}, {"distributions": [row(*INSIDE), row(9)]},
        {"distributions": [row(3), {"token_ids": b"\x09\0\0", "log_probabilities": b"\0\0"}]},
        {
            "token_ids": [3] * 3, "log_probabilities": [-1] * 3, "entropies": [1] * 3, "distributions": [row(3)] * 3,
        },
    ],
)  # fmt: skip
def test_a_drafted_block_that_cannot_be_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(MalformedAnswerError):
        check_drafted(DRAFT, ROUND, drafted(**block))


def test_a_block_of_another_round_or_with_an_impossible_time_is_refused() -> None:
    for change in ({"round": 1}, {"timing": {"steps": 2}}, {"timing": {"queue_microseconds": 2**62}}):
        answer = drafted()
        answer.MergeFrom(draft_pb2.DraftedBlock(**change))
        with pytest.raises(MalformedAnswerError):
            check_drafted(DRAFT, ROUND, answer)


def test_distributions_that_nobody_asked_for_are_refused() -> None:
    with pytest.raises(MalformedAnswerError, match="not asked for"):
        check_drafted(draft_pb2.DraftOpen(verification=GREEDY), ROUND, drafted())


def test_full_rows_are_those_that_were_asked_for() -> None:
    asked = draft_pb2.DraftRows(round=2, indices=[2, 0])
    full = struct.pack(f"<{VOCABULARY}e", *[-INFINITY] * 9, -0.5)
    good = {"round": 2, "rows": [{"index": 2, "log_probabilities": full}, {"index": 0, "log_probabilities": full}]}
    check_rows(DRAFT, asked, draft_pb2.DraftedRows(**good))
    bad: list[dict[str, Any]] = [{"round": 1}, {"rows": good["rows"][:1]}, {"rows": good["rows"][::-1]}]
    for numbers in (full[:-2], full + full, b"", full[:-2] + struct.pack("<e", 0.5), full[:-2] + struct.pack("<e", NAN),
                    full[:-2] + struct.pack("<e", -INFINITY)):  # fmt: skip
        bad.append({"rows": [good["rows"][0], {"index": 0, "log_probabilities": numbers}]})
    for change in bad:
        with pytest.raises(MalformedAnswerError):
            check_rows(DRAFT, asked, draft_pb2.DraftedRows(**{**good, **change}))


def features(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


def test_features_are_of_the_positions_that_were_asked_for() -> None:
    """Two numbers for each of a block's three positions, and of as many before them as were asked for less one."""
    opening, asked, answer = verified()
    asked.features = 2
    for count in (3, 4):
        answer.features = features(*[1.0] * 2 * count)
        check_verified(opening, asked, answer, feature_width=2)
    for data in (b"", features(*[1.0] * 4), features(*[1.0] * 10), features(*[1.0] * 7), features(1, 2, 3, 4, 5, NAN)):
        answer.features = data
        with pytest.raises(MalformedAnswerError):
            check_verified(opening, asked, answer, feature_width=2)
    asked.features = 0
    answer.features = features(*[1.0] * 6)
    with pytest.raises(MalformedAnswerError, match="features that were not asked for"):
        check_verified(opening, asked, answer, feature_width=2)


def test_a_tokens_features_are_its_own_and_with_a_first_one_those_before_it() -> None:
    asked = target_pb2.Generate()
    asked.CopyFrom(GENERATE)
    asked.features = 3
    facts: dict[str, Any] = {"context_length": 0, "feature_width": 2}
    for before, count, fits in ((0, 1, True), (0, 3, True), (0, 4, False), (1, 1, True), (1, 2, False), (1, 0, False)):
        fields = {} if before else {"position": GENERATE.continuation.position + len(GENERATE.continuation.token_ids)}
        token = generated(**fields, features=features(*[1.0] * 2 * count))
        if fits:
            check_generated(OPENING, asked, token, before=before, **facts)
        else:
            with pytest.raises(MalformedAnswerError, match="are no features"):
                check_generated(OPENING, asked, token, before=before, **facts)


def test_a_draft_may_ask_for_some_of_the_targets_features() -> None:
    for positions in (1, 256):
        check_draft_opened(draft_pb2.DraftOpened(model={"fed_with": {"positions": positions}}))
    with pytest.raises(MalformedAnswerError, match="features of 257 positions"):
        check_draft_opened(draft_pb2.DraftOpened(model={"fed_with": {"positions": 257}}))
