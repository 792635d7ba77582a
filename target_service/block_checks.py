"""What a round's block has to be."""

from __future__ import annotations

from tandem.block_trees import check_siblings
from tandem.distributions import CompressedRow
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.trees import Tree
from tandem.v1 import block_pb2
from tandem.wire import compressed_rows
from target_service.scores import check, scores
from target_service.session import TargetSession
from target_service.verification import Rule

_MAX_BLOCK = 64


def candidate_rows(block: block_pb2.Block, rule: Rule, tree: Tree, vocabulary: int) -> list[CompressedRow] | None:
    """The row of q of each candidate, None where none were sent. Raises TandemError INVALID_FIELD."""
    size = len(block.token_ids)
    if size > _MAX_BLOCK:
        raise TandemError.invalid_field("round.block.token_ids", f"has {size} candidates; at most {_MAX_BLOCK}")
    if len(tree) not in (0, size):
        raise TandemError.invalid_field("round.block.parents", f"has {len(tree)} entries for {size} candidates")
    laws = len(tree.families) if len(tree) else size
    if len(block.distributions) > laws:  # before any of them is read
        raise TandemError.invalid_field(
            "round.block.distributions", f"has {len(block.distributions)} entries for {laws} places"
        )
    check_token_ids(block.token_ids, path="round.block.token_ids", vocabulary_size=vocabulary)
    check_siblings(tree, block.token_ids[: len(tree)], path="round.block.token_ids")
    rows = compressed_rows(block.distributions, path="round.block.distributions", vocabulary_size=vocabulary)
    needed = rule in (Rule.RATIO, Rule.BLOCK)
    if len(rows) != laws and (rows or needed):
        raise TandemError.invalid_field("round.block.distributions", f"has {len(rows)} entries for {laws} places")
    if len(tree) and rows:
        rows = [rows[family] for family in tree.family_of]
    if needed:
        for index, (token, row) in enumerate(zip(block.token_ids, rows, strict=True)):
            if row.tail_mass > 0 or not bool((row.token_ids == token).any()):
                place = tree.family_of[index] if len(tree) else index
                raise TandemError.invalid_field(
                    f"round.block.distributions[{place}]",
                    "must be the whole law that the candidate was drawn from",
                )
    return rows or None


def check_tree(tree: Tree, session: TargetSession) -> None:
    """Raises TandemError INVALID_FIELD where there is one and the sequence follows one text."""
    if len(tree) and not session.makes_trees:
        raise TandemError.invalid_field("round.block.parents", "does not go with a grammar")
    if len(tree) and session.spec.drafts:
        raise TandemError.invalid_field("round.block.parents", "does not go with `drafts`")


def ranks(block: block_pb2.Block, rule: Rule) -> list[float]:
    """What its candidates are worth to verify. Raises TandemError INVALID_FIELD."""
    for name in ("log_probabilities", "entropies"):
        if problem := check(getattr(block, name), len(block.token_ids)):
            raise TandemError.invalid_field(f"round.block.{name}", problem)
    return scores(rule, block.log_probabilities, block.entropies)
