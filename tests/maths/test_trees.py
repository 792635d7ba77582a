"""Trees of candidates as lists of parents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.block_trees import check_siblings, read_tree
from tandem.rpc.errors import TandemError
from tandem.trees import NO_TREE, ROOT, Tree


@st.composite
def parents(draw) -> list[int]:
    return [draw(st.integers(ROOT, index - 1)) for index in range(draw(st.integers(0, 12)))]


def test_what_a_tree_is_told_by() -> None:
    #  0 -> 2 -> 4, 0 -> 3, 1
    tree = Tree([ROOT, ROOT, 0, 0, 2])
    assert (len(tree), tree.height, tree.depths) == (5, 3, (0, 0, 1, 1, 2))
    assert tree.families == {ROOT: (0, 1), 0: (2, 3), 2: (4,)}
    assert tree.family_of == (0, 0, 1, 1, 2)
    assert (tree.path(4), tree.path(1), tree.path(ROOT)) == ([0, 2, 4], [1], [])
    assert tree.positions(7) == [7, 7, 8, 8, 9]
    assert tree.lineage[4] == [True, False, True, False, True]
    assert tree.lower(2).parents == (ROOT, ROOT, 0, 0)
    assert tree.cut(2).parents == (ROOT, ROOT)
    assert tree.is_level and tree.is_ordered and not tree.is_chain
    assert [tree.is_path(path) for path in ([], [0, 2, 4], [0, 4], [2], [0, 5], [-1])] == [True, True] + [False] * 4


def test_a_chain_is_a_tree() -> None:
    assert Tree.chain(3).parents == (ROOT, 0, 1)
    assert Tree.chain(3).is_chain and Tree.chain(0).is_chain and NO_TREE.height == 0


@given(parents())
def test_lineage_is_the_path(found: list[int]) -> None:
    tree = Tree(found)
    for index in range(len(tree)):
        assert [at for at, above in enumerate(tree.lineage[index]) if above] == tree.path(index)
        assert tree.depths[index] == len(tree.path(index)) - 1


@given(parents(), st.data())
def test_a_path_is_found_by_its_tokens(found: list[int], data: st.DataObject) -> None:
    tree, tokens = Tree(found), list(range(len(found)))
    last = data.draw(st.integers(ROOT, len(found) - 1))
    path = tree.path(last)
    assert tree.follow(tokens, [*path, 99]) == path
    assert tree.is_path(path)


@given(parents(), st.integers(0, 5))
def test_a_lower_tree_has_the_same_paths_as_far_as_they_go(found: list[int], height: int) -> None:
    tree, lower = Tree(found), Tree(found).lower(height)
    assert lower.height == min(tree.height, height)
    assert len(lower) == sum(depth < height for depth in tree.depths)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([0], "the parent of candidate 0"),
        ([ROOT, 2, 0], "the parent of candidate 1"),
        ([ROOT, -2], "the parent of candidate 1"),
        ([ROOT, 0, ROOT], "a candidate after one that is deeper"),
        ([ROOT, ROOT, 0, 1, 0], "siblings that do not follow each other"),
        ([ROOT] * 65, "has 65 candidates; at most 64"),
    ],
)
def test_what_is_no_tree_is_refused_with_its_field(found: list[int], problem: str) -> None:
    with pytest.raises(TandemError) as caught:
        read_tree(found, path="round.block.parents")
    assert caught.value.field == "round.block.parents" and problem in caught.value.message


def test_siblings_of_one_token_are_refused_with_their_place() -> None:
    tree = read_tree([ROOT, ROOT, 0, 0], path="parents")
    check_siblings(tree, [5, 6, 5, 6], path="token_ids")
    with pytest.raises(TandemError) as caught:
        check_siblings(tree, [5, 6, 7, 7], path="token_ids")
    assert caught.value.field == "token_ids[3]"
