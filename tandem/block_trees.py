"""Trees of candidates as they travel: what is none is refused with its field."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.rpc.errors import TandemError
from tandem.trees import MOST_CANDIDATES, NO_TREE, Tree


def read_tree(parents: Sequence[int], *, path: str) -> Tree:
    """The tree that these parents make; NO_TREE of none. path: of the field. Raises TandemError INVALID_FIELD where one
    does not come before its child, for siblings that do not follow each other, a candidate before one that is less
    deep, or more than MOST_CANDIDATES."""
    if not parents:
        return NO_TREE
    if len(parents) > MOST_CANDIDATES:
        raise TandemError.invalid_field(path, f"has {len(parents)} candidates; at most {MOST_CANDIDATES}")
    try:
        tree = Tree(parents)
    except ValueError as error:
        raise TandemError.invalid_field(path, str(error)) from error
    if not tree.is_level:
        raise TandemError.invalid_field(path, "has a candidate after one that is deeper")
    if not tree.is_ordered:
        raise TandemError.invalid_field(path, "has siblings that do not follow each other")
    return tree


def check_siblings(tree: Tree, token_ids: Sequence[int], *, path: str) -> None:
    """Raises TandemError INVALID_FIELD where two siblings are the same token."""
    twin = tree.twins(token_ids)
    if twin is not None:
        raise TandemError.invalid_field(f"{path}[{twin}]", f"is {token_ids[twin]}, as an elder sibling is")
