"""Which shape a tree has: the dynamic programme against all trees there are, what ranks learn, what goodput chooses."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest

from orchestrator.acceptance import Verification
from orchestrator.judging import positions
from orchestrator.stopping import Limits, RoundCosts
from orchestrator.stopping.costs import Costs
from orchestrator.trees.growing import TreeRule
from orchestrator.trees.outcome import path_outcome, place_chances
from orchestrator.trees.ranks import RankAcceptance
from orchestrator.trees.shapes import Shapes
from orchestrator.trees.walk import met, walk
from tandem.noise import NoiseStream
from tandem.trees import ROOT, Tree
from tandem.v1 import block_pb2, target_pb2
from tests.rules.positions import CORRECTION, candidate


def value(tree: Tree, chances: tuple[float, ...]) -> float:
    """Expected accepted candidates, candidate by candidate."""
    reached = {ROOT: 1.0}
    for parent, children in tree.families.items():
        for rank, child in enumerate(children):
            reached[child] = reached[parent] * chances[rank]
    return sum(reached.values()) - 1


@cache
def all_trees(nodes: int, width: int) -> list[Tree]:
    """Level by level, siblings side by side."""
    found = []
    for parents in itertools.product(*(range(ROOT, index) for index in range(nodes))):
        if list(parents) == sorted(parents):
            tree = Tree(parents)
            if all(len(children) <= width for children in tree.families.values()):
                found.append(tree)
    return found


@pytest.mark.parametrize(
    "chances", [(0.8, 0.1, 0.05), (0.5, 0.3, 0.15), (0.3, 0.42, 0.1), (0.34, 0.33, 0.33), (0.9,), (0.6, 0.0, 0.2)]
)
def test_no_tree_is_better_than_the_best_one(chances: tuple[float, ...]) -> None:
    """Of all trees of up to 6 candidates, also where a later rank is likelier than the first."""
    shapes = Shapes(chances, 6, 6)
    for nodes, height in itertools.product(range(1, 7), range(1, 7)):
        best = max(
            value(tree, chances)
            for size in range(1, nodes + 1)
            for tree in all_trees(size, len(chances))
            if tree.height <= height
        )
        assert shapes.expected[nodes, height] == pytest.approx(best)
        tree = shapes.tree(nodes, height)
        assert value(tree, chances) == pytest.approx(best)
        assert tree.height <= height and len(tree) <= nodes and tree.is_level and tree.is_ordered


def test_a_worked_example_of_the_dynamic_programme() -> None:
    """By hand, p = (.6, .3). Three candidates: .6 + .36 + .3 = 1.26, a path of two beside one; a path of three has .6 +
    .36 + .216 = 1.176. Four: the path's third, .216, against a brother of its second, .18, so 1.476. Five: now that
    brother, or a second one behind the other first, .3 * .6 = .18 alike: 1.656."""
    shapes = Shapes((0.6, 0.3), 5, 5)
    assert [round(float(shapes.expected[nodes, 5]), 6) for nodes in range(6)] == [0, 0.6, 0.96, 1.26, 1.476, 1.656]
    assert shapes.tree(3, 5).parents == (ROOT, ROOT, 0)
    assert shapes.tree(4, 5).parents == (ROOT, ROOT, 0, 2)
    # No deeper than two: .6 + .3 + .36 + .18.
    assert float(shapes.expected[4, 2]) == pytest.approx(1.44)
    assert float(shapes.expected[2, 1]) == pytest.approx(0.9)


def test_ranks_learn_what_is_accepted_at_its_turn() -> None:
    """By hand: turns of rank 0 are all places, of rank 1 those at which rank 0 was rejected."""
    ranks = RankAcceptance(is_shared=True)
    for _ in range(4000):
        ranks.add([1.0, 0.0])
        ranks.add([0.0, 1.0])
        ranks.add([0.0, 0.0])
        ranks.add([0.0, 0.0])
    shares = ranks.values()
    assert shares[0] == pytest.approx(0.25, abs=0.01)  # of four places one
    assert shares[1] == pytest.approx(0.25, abs=0.01)  # of three that are left one, 3/4 * 1/3
    assert shares[2] > 0 and sum(shares) <= 1


def test_chances_count_as_what_they_are() -> None:
    ranks = RankAcceptance(is_shared=False)
    for _ in range(4000):
        ranks.add([0.5, 0.5, 0.5])
    assert ranks.values()[:3] == pytest.approx([0.5, 0.25, 0.125], abs=0.01)


def test_a_rank_that_nobody_reached_keeps_what_is_believed() -> None:
    ranks, before = RankAcceptance(), RankAcceptance().values()
    ranks.add([1.0, 0.0])
    assert ranks.values()[1] / (1 - ranks.values()[0]) == pytest.approx(before[1] / (1 - before[0]))


def taught(first: float, second: float) -> RankAcceptance:
    ranks = RankAcceptance()
    for _ in range(3000):
        ranks.add([first, second, 0.0, 0.0])
    return ranks


def costs(*, draft: float, verify_token: float) -> Costs:
    """A draft step, and a target's step of 10 ms and so much for each token."""
    found = Costs(sessions=1)
    for tokens in (*range(1, 66), *range(1, 66)):
        seconds = 0.01 + verify_token * tokens
        found.learn(RoundCosts(draft, 1, seconds, 0.0, tokens, 1.0, 0.001, 0.0005), drafted=tokens - 1)
    return found


LIMITS = Limits(max_tokens=8, min_tokens=1, min_survival=(0.5,), acceptance_curve=((0.0, 1.0),))


def test_a_fixed_number_of_candidates_has_the_best_shape() -> None:
    rule = TreeRule(taught(0.5, 0.6), Costs(), nodes=5, width=3)
    limits, tree = rule.shape(LIMITS, left=100)
    assert len(tree) == 5 and tree.height > 1 and not tree.is_chain
    assert limits.max_tokens == 5 and not limits.min_survival
    assert len(rule.shape(LIMITS, left=2)[1].families) == 1  # one place: only one more can be used


def test_a_width_of_one_is_a_path_under_the_limits_of_the_stop_rule() -> None:
    limits, tree = TreeRule(taught(0.5, 0.6), Costs(), nodes=5, width=1).shape(LIMITS, left=100)
    assert not len(tree) and limits.max_tokens == 5 and limits.min_survival == (0.5,)


def test_where_candidates_cost_little_and_drafts_err_a_tree_is_chosen() -> None:
    limits, tree = TreeRule(taught(0.5, 0.7), costs(draft=0.004, verify_token=1e-5)).shape(LIMITS, left=100)
    assert len(tree) > tree.height > 1 and not limits.min_survival


@pytest.mark.parametrize(
    ("first", "second", "draft", "verify_token"),
    [
        (0.95, 0.1, 0.0005, 1e-5),  # the draft is nearly always right
        (0.5, 0.7, 0.004, 0.01),  # every token costs what a step does
    ],
)
def test_where_a_tree_does_not_pay_it_is_a_path(first: float, second: float, draft: float, verify_token: float) -> None:
    rule = TreeRule(taught(first, second), costs(draft=draft, verify_token=verify_token))
    limits, tree = rule.shape(LIMITS, left=100)
    assert not len(tree) and limits == LIMITS


def test_before_anything_was_measured_it_is_a_path() -> None:
    assert not len(TreeRule(taught(0.5, 0.7), Costs()).shape(LIMITS, left=100)[1])


# The walk.


def judged(parents: list[int], accepted: set[int]) -> tuple[tuple[int, ...], int | None]:
    found = walk(Tree(parents), [candidate(accepted=index in accepted) for index in range(len(parents))])
    assert found.kept == len(found.path) == len(found.sources)
    return found.path, found.next_token


def test_the_walk_takes_the_first_that_is_accepted_and_goes_on_behind_it() -> None:
    parents = [ROOT, ROOT, 0, 0, 1, 1, 5]
    assert judged(parents, set()) == ((), CORRECTION)
    assert judged(parents, {1}) == ((1,), CORRECTION)
    assert judged(parents, {0, 1, 3}) == ((0, 3), None)  # its elder sibling first; behind it the bonus
    assert judged(parents, {1, 5, 6}) == ((1, 5, 6), None)
    assert judged(parents, {4, 5, 6}) == ((), CORRECTION)  # what stands above them is not kept
    assert met(Tree(parents), (1, 5)) == [(0, 1), (4, 5), (6,)]


def test_no_two_candidates_of_a_tree_share_a_number() -> None:
    """Siblings stand at one place of the text, but each has a u of its own."""
    parents = [ROOT, ROOT, ROOT, 0, 0, 1]
    block = block_pb2.Block(position=9, token_ids=range(6), parents=parents)
    verified = target_pb2.VerifiedBlock(
        round=4, acceptance_probabilities=[0.5] * 6, correction_token_ids=[7] * 6, target_token_ids=range(20, 27),
        in_support=[True] * 6, log_probabilities=[-1.0] * 6, max_log_probabilities=[-0.5] * 6, entropies=[1.0] * 6,
        top3_entropies=[0.8] * 6,
    )  # fmt: skip
    found = positions(block, verified, NoiseStream(3), frozenset())
    assert len({each.u for each in found}) == 6
    assert [each.target_token for each in found] == [20, 20, 20, 21, 21, 22]  # of the place, not of the candidate


def test_a_stop_rule_is_told_of_the_path_that_was_decided() -> None:
    """By hand: the second candidate for the first place was kept, then none of two; behind stands a third place."""
    parents = [ROOT, ROOT, 1, 1, 2]
    block = block_pb2.Block(
        position=0, token_ids=range(5), parents=parents, entropies=[1, 1, 2, 2, 3],
        log_probabilities=[-0.5, -1, -1.5, -2, -3],
    )  # fmt: skip
    decided = [replace(candidate(accepted=index == 1, tv=0.4), acceptance=0.1 * index) for index in range(5)]
    judgement = walk(Tree(parents), [replace(each, acceptance=float(at == 1)) for at, each in enumerate(decided)])
    found = path_outcome(block, decided, judgement, Verification.RATIO, cap=3, costs=None)
    assert (found.drafted, found.accepted, found.cap) == (3, 1, 3)
    assert (found.entropies, found.matched) == ((1, 2), (True, False))
    assert found.probabilities == pytest.approx((math.exp(-1), math.exp(-1.5)))
    assert found.acceptances == pytest.approx((0.6, 0.6))  # 1 - TV, whichever candidate was kept
    chosen = path_outcome(block, decided, judgement, Verification.COUPLED, cap=3, costs=None)
    assert chosen.acceptances == (0.0, 0.0)  # the first candidate was not the one
    assert place_chances(block, decided, judgement) == [pytest.approx([0.0, 0.1]), pytest.approx([0.2, 0.3])]
