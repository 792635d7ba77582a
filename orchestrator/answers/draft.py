"""Answers of a draft. What reaches the target from it is looked at here first: a block that the target refuses would
cost the target's stream, too. What the entries of a distribution are worth is left to the target, which reads all of
them anyway; both sides take them renormalised, so that their sum has no bound of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from orchestrator.answers.numbers import (
    LEAST_ENTRY,
    LEAST_LOG,
    ROUNDING,
    MalformedAnswerError,
    check_place,
    check_row,
    check_timing,
    check_tokens,
    most_entropy,
    vocabulary_of,
    within,
)
from orchestrator.target_laws import MOST_FEATURES
from tandem.trees import Tree
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, sampling_pb2

# Under these the target needs the law that each candidate was drawn from.
_SAMPLED = frozenset({sampling_pb2.VERIFICATION_RULE_RATIO, sampling_pb2.VERIFICATION_RULE_BLOCK})
# Of the target's distributions, that a draft may ask for.
_MOST_TARGET_ENTRIES = 64


def check_draft_opened(opened: draft_pb2.DraftOpened) -> None:
    """Raises MalformedAnswerError."""
    if opened.target_entries > _MOST_TARGET_ENTRIES:
        raise MalformedAnswerError(f"it wants {opened.target_entries} entries of the target's distributions")
    if opened.model.fed_with.positions > MOST_FEATURES:
        raise MalformedAnswerError(f"it wants the target's features of {opened.model.fed_with.positions} positions")


def check_drafted(
    opening: draft_pb2.DraftOpen, asked: draft_pb2.DraftRound, drafted: draft_pb2.DraftedBlock
) -> None:
    """opening: of the stream. Raises MalformedAnswerError."""
    block, size = drafted.block, len(drafted.block.token_ids)
    position = asked.continuation.position + len(asked.continuation.token_ids)
    check_place(drafted.round, asked.round, block.position, position)
    if size > asked.limits.max_tokens:
        raise MalformedAnswerError(f"it has {size} candidates where {asked.limits.max_tokens} were asked for")
    _check_shape(asked.parents, block)
    check_block(opening, block)
    check_timing(drafted.timing)


def _check_shape(asked: Sequence[int], block: block_pb2.Block) -> None:
    """asked: parents of the shape."""
    if bool(asked) != bool(block.parents) and block.token_ids:
        raise MalformedAnswerError("it is a tree where none was asked for, or none where one was")
    if not block.parents:
        return
    if len(block.parents) != len(block.token_ids):
        raise MalformedAnswerError(f"it has {len(block.parents)} parents for {len(block.token_ids)} candidates")
    try:
        tree = Tree(block.parents)
    except ValueError as error:
        raise MalformedAnswerError(str(error)) from error
    if not (tree.is_level and tree.is_ordered) or tree.twins(block.token_ids) is not None:
        raise MalformedAnswerError("its candidates are not in the order of a tree, or siblings are the same token")
    if tree.height > Tree(asked).height:
        raise MalformedAnswerError(f"it has a path of {tree.height} candidates, more than were asked for")


def check_block(opening: draft_pb2.DraftOpen, block: block_pb2.Block) -> None:
    """Its candidates and what is said of them. Raises MalformedAnswerError."""
    size = len(block.token_ids)
    if len(block.log_probabilities) != size or len(block.entropies) != size:
        raise MalformedAnswerError(f"its columns do not fit {size} candidates")
    vocabulary = vocabulary_of(opening.handshake.expected.vocabulary_size)
    check_tokens(block.token_ids, vocabulary)
    if not within([*block.log_probabilities], LEAST_LOG, ROUNDING):
        raise MalformedAnswerError("a log-probability is not one")
    if not within([*block.entropies], -ROUNDING, most_entropy(vocabulary)):
        raise MalformedAnswerError("an entropy is not one")
    tokens = [block.token_ids[children[0]] for children in Tree(block.parents).families.values()]
    _check_distributions(opening, tokens or block.token_ids, block.distributions)


def _check_distributions(
    opening: draft_pb2.DraftOpen,
    tokens: Sequence[int],
    rows: Sequence[distribution_pb2.CompressedDistribution],
) -> None:
    most, is_sampled = opening.format.max_entries, opening.verification in _SAMPLED
    if len(rows) != len(tokens) and (rows or is_sampled):
        raise MalformedAnswerError(f"it has {len(rows)} distributions for {len(tokens)} candidates")
    if rows and not most:
        raise MalformedAnswerError("it has distributions that were not asked for")
    for token, row in zip(tokens, rows, strict=False):  # a drafter without distributions sends none
        check_row(row, most)
        if is_sampled and (row.tail_mass > 0 or not _lists(row.token_ids, token)):
            raise MalformedAnswerError("a distribution is not the whole law that its candidate was drawn from")


def _lists(token_ids: bytes, token: int) -> bool:
    """Whether a packed list of ids has this one."""
    packed, at = struct.pack("<I", token), -1
    while (at := token_ids.find(packed, at + 1)) >= 0:
        if at % 4 == 0:
            return True
    return False


def check_rows(opening: draft_pb2.DraftOpen, asked: draft_pb2.DraftRows, rows: draft_pb2.DraftedRows) -> None:
    """opening: of the stream. Raises MalformedAnswerError."""
    check_place(rows.round, asked.round, 0, 0)
    if [row.index for row in rows.rows] != list(asked.indices):
        raise MalformedAnswerError("it has other rows than were asked for")
    size = 2 * vocabulary_of(opening.handshake.expected.vocabulary_size)
    for row in rows.rows:
        if len(row.log_probabilities) != size:
            raise MalformedAnswerError(f"a full row has {len(row.log_probabilities)} bytes, not {size}")
        numbers = np.frombuffer(row.log_probabilities, "<f2")
        if not (numbers <= 0).all() or not numbers.max() >= LEAST_ENTRY:
            raise MalformedAnswerError("a full row's numbers are no probabilities")
    check_timing(rows.timing)
