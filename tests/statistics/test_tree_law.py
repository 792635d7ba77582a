"""Trees under the exact rules emit the target's law: an identity in float64, checked by enumeration; and which trees
may be submitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.drawing import Draw
from draft_service.drafters.growth import Voice
from draft_service.drafters.siblings import Place, Siblings, draw_siblings
from orchestrator.trees.walk import walk
from tandem.compression import truncate_law
from tandem.noise import NoiseStream
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.trees import ROOT, Tree
from tandem.v1 import sampling_pb2
from target_service.verification import Block, BlockNumbers, Rule, target_tokens, verify_many
from tests.rules.positions import candidate
from tests.statistics.branching import Drafted, drafts, law, numbers, orders
from tests.statistics.exact import EXACT
from tests.statistics.goodness import fits
from tests.statistics.pairs import Pair, pairs, random_pair

SHAPES = {
    "two": [ROOT, ROOT],
    "three": [ROOT] * 3,
    "two, one": [ROOT, ROOT, 0],
    "one, two": [ROOT, 0, 0],
    "two, two and one": [ROOT, ROOT, 0, 0, 1],
    "more than there are": [ROOT] * 5,
    "chain": [ROOT, 0],
}
PAIRS = pairs(3)


def error(pair: Pair, shape: Tree, length: int = 3) -> float:
    return max(
        float((law(pair, start, drafts(pair, start, shape), length) - pair.joint(start, length)).abs().max())
        for start in range(pair.size)
    )


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_joint_law_of_three_tokens_is_the_targets(name: str, shape: str) -> None:
    assert error(PAIRS[name], Tree(SHAPES[shape])) < EXACT


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 1.0, 4.0]),
    noise=st.sampled_from([0.0, 0.3, 3.0]),
    k=st.sampled_from([1, 2, 4]),
    shape=st.sampled_from(sorted(SHAPES)),
)
def test_the_joint_law_of_any_pair_is_the_targets(seed: int, scale: float, noise: float, k: int, shape: str) -> None:
    pair = random_pair(4, seed, scale=scale, noise=noise, max_entries=k, p_sampling={"top_p": 0.9})
    assert error(pair, Tree(SHAPES[shape]), length=2) < EXACT


def test_a_chain_in_the_form_of_a_tree_has_the_numbers_of_a_chain() -> None:
    pair = PAIRS["plain"]
    for start, first, second in np.ndindex(3, 3, 3):
        rows, states = [pair.rows[start], pair.rows[first]], [start, first, second]
        blocks = [
            Block(Rule.RATIO, (first, second), rows, NoiseStream(9), 4, tree=shape)
            for shape in (Tree(), Tree([ROOT, 0]))
        ]
        chain, tree = verify_many(blocks, [pair.log_p[states]] * 2)
        assert isinstance(chain, BlockNumbers) and isinstance(tree, BlockNumbers)
        assert tree.acceptance == pytest.approx(chain.acceptance, abs=EXACT)
        assert (tree.corrections, tree.target_tokens) == (chain.corrections, chain.target_tokens)


def test_a_worked_example_of_recursive_rejection() -> None:
    """By hand. p = (.2, .5, .3), q = (.5, .25, .25); token 0 first: .2 / .5 = .4. Left of p: (0, .25, .05), which is
    (0, 5/6, 1/6); of q: (0, 1/2, 1/2). Token 1 second: 5/3, so 1. Token 2 second: 1/3, and then (0, 1/3, 0) is left,
    which is token 1."""
    p, q = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.5, 0.25, 0.25])
    pair = Pair(p.log().expand(3, 3), q.log().expand(3, 3))
    tree = Tree([ROOT, ROOT])
    # Halves of logarithms are rounded to 11 bits before they are sent.
    close = {"abs": 1e-3}
    found, _ = numbers(Rule.RATIO, pair, 0, Drafted(tree, (0, 1)))
    assert found.acceptance == pytest.approx([0.4, 1.0], **close)
    found, corrections = numbers(Rule.RATIO, pair, 0, Drafted(tree, (0, 2)))
    assert found.acceptance == pytest.approx([0.4, 1 / 3], **close)
    assert corrections[ROOT].tolist() == pytest.approx([0.0, 1.0, 0.0], **close)
    assert found.corrections == [1, 1]


def test_more_siblings_are_accepted_more_often() -> None:
    pair = PAIRS["far apart"]
    rates = []
    for count in (1, 2, 3):
        tree = Tree([ROOT] * count)
        rejected = 0.0
        for drafted, chance in drafts(pair, 0, tree):
            found, _ = numbers(Rule.RATIO, pair, 0, drafted)
            rejected += chance * math.prod(1 - each for each in found.acceptance)
        rates.append(1 - rejected)
    assert rates[0] == pytest.approx(float(torch.minimum(pair.p[0], pair.q(0)).sum()), abs=EXACT)
    assert rates[0] + 0.05 < rates[1] < rates[2] == pytest.approx(1.0, abs=EXACT)


@settings(max_examples=40, deadline=None)
@given(p=st.floats(0.01, 0.99), q=st.floats(0.01, 0.99))
def test_of_two_tokens_one_of_two_siblings_is_always_accepted(p: float, q: float) -> None:
    """The example of Jeon et al., arXiv 2402.14160: laws of two outcomes, two candidates without replacement. By hand:
    where the first one is rejected, p < q there, all that is left of p is on the other, as all that is left of q is."""
    rows = [torch.tensor([each, 1 - each]).log().expand(2, 2) for each in (p, q)]
    pair = Pair(*rows)
    for order in ((0, 1), (1, 0)):
        found, _ = numbers(Rule.RATIO, pair, 0, Drafted(Tree([ROOT, ROOT]), order))
        assert math.prod(1 - each for each in found.acceptance) == pytest.approx(0.0, abs=EXACT)


# Which trees may be submitted.


def reshaped(pair: Pair, start: int, *, sees_own: bool):
    """Trees of two candidates, of which one goes on: the likelier of the two, with as many candidates as its law is
    wide. sees_own: the mutant that leaves out the second candidate where it is less likely than the first."""
    for (first, second), chance in orders(pair.q(start).tolist(), 2):
        q = pair.q(start)
        if sees_own and q[second] < q[first]:
            yield Drafted(Tree([ROOT]), (first,)), chance
            continue
        best = 0 if q[first] >= q[second] else 1
        state = (first, second)[best]
        width = 2 if float(pair.q(state).max()) < 0.6 else 1
        for behind, weight in orders(pair.q(state).tolist(), width):
            tokens = (first, second, *behind)
            yield Drafted(Tree([ROOT, ROOT, *[best] * len(behind)]), tokens), chance * weight


@pytest.mark.parametrize("name", ["plain", "far apart", "sharp"])
def test_a_shape_may_depend_on_what_stands_above_and_beside_it(name: str) -> None:
    pair = PAIRS[name]
    for start in range(3):
        found = law(pair, start, reshaped(pair, start, sees_own=False), 3)
        assert float((found - pair.joint(start, 3)).abs().max()) < EXACT


def test_a_shape_must_not_depend_on_the_candidates_that_it_leaves_out() -> None:
    pair = PAIRS["plain"]
    found = [law(pair, start, reshaped(pair, start, sees_own=True), 3) for start in range(3)]
    assert max(float((each - pair.joint(start, 3)).abs().max()) for start, each in enumerate(found)) > 0.001


# What the draft draws.


def siblings(log_q: torch.Tensor, rule: int, seeds: range, count: int, entries: int = 8) -> list[Siblings]:
    params = SamplingParams(temperature=1.0 if rule != sampling_pb2.VERIFICATION_RULE_GREEDY else 0.0)
    places = []
    for seed in seeds:
        spec = SequenceSpec((1,), 1, params, rule, NoiseStream(seed), frozenset(), entries, 1.0)
        voice = Voice(spec, SamplingChain(params, len(log_q)), History(()), 100)
        places.append(Place(voice, Draw(rule, spec.noise, 7, 3, entries, 1.0), count, 7))
    found = draw_siblings(places, [log_q.unsqueeze(0)] * len(places))
    assert all(isinstance(each, Siblings) for each in found)
    return found  # type: ignore[return-value]


def test_siblings_are_drawn_without_replacement() -> None:
    """A G-test over 24 orders of three of four tokens; a right program fails with probability 1e-6."""
    log_q = torch.log_softmax(torch.tensor([0.3, 1.2, -0.4, 0.1]), -1)
    found = siblings(log_q, sampling_pb2.VERIFICATION_RULE_RATIO, range(20_000), 3)
    row = truncate_law(log_q, 8)
    expected = dict(orders(Pair(log_q.expand(4, 4), log_q.expand(4, 4)).q(0).tolist(), 3))
    counts = dict.fromkeys(expected, 0)
    for each in found:
        counts[each.token_ids] += 1
        assert each.row is not None and each.row.token_ids.tolist() == row.token_ids.tolist()
    assert fits(torch.tensor([counts[order] for order in expected]), torch.tensor(list(expected.values())))


def test_there_are_no_more_siblings_than_tokens() -> None:
    log_q = torch.log_softmax(torch.tensor([0.3, -math.inf, -0.4, -math.inf]), -1)
    for rule in (sampling_pb2.VERIFICATION_RULE_RATIO, sampling_pb2.VERIFICATION_RULE_COUPLED):
        for each in siblings(log_q, rule, range(20), 4):
            assert sorted(each.token_ids) == [0, 2]


def test_coupled_siblings_begin_with_the_coupled_draw() -> None:
    """They are the largest of log q + g: the first is what the target draws where p = q."""
    log_q = torch.log_softmax(torch.tensor([0.3, 1.2, -0.4, 0.1, 0.0]), -1)
    for seed, each in enumerate(siblings(log_q, sampling_pb2.VERIFICATION_RULE_COUPLED, range(50), 3)):
        own = target_tokens(Rule.COUPLED, log_q.unsqueeze(0), NoiseStream(seed), 7)
        assert each.token_ids[0] == int(own) and len(set(each.token_ids)) == 3


def test_greedy_siblings_are_the_likeliest() -> None:
    log_q = torch.log_softmax(torch.tensor([0.3, 1.2, -0.4, 0.1, 0.0]), -1)
    [found] = siblings(log_q, sampling_pb2.VERIFICATION_RULE_GREEDY, range(1), 3, entries=0)
    assert found.token_ids == (1, 0, 3)


# Rules that choose one token.


@st.composite
def trees(draw) -> Drafted:
    parents: list[int] = []
    for index in range(draw(st.integers(1, 7))):
        parents.append(draw(st.integers(ROOT, index - 1)))
    tree, tokens = Tree(parents), [0] * len(parents)
    for children in tree.families.values():
        order = draw(st.permutations(range(8)))
        for child, token in zip(children, order, strict=False):
            tokens[child] = token
    return Drafted(tree, tuple(tokens))


@settings(max_examples=150, deadline=None)
@given(
    pair=st.builds(random_pair, st.just(8), st.integers(0, 10**4)),
    seed=st.integers(0, 2**64 - 1),
    rule=st.sampled_from([Rule.GREEDY, Rule.COUPLED]),
    start=st.integers(0, 7),
    blocks=st.lists(trees(), min_size=1, max_size=3),
)
def test_whatever_tree_is_drafted_the_text_is_the_targets_own(pair, seed, rule, start, blocks) -> None:
    """Any tree may be submitted, and what is left out may depend on anything."""
    noise, text, state = NoiseStream(seed), [], start
    for drafted in blocks:
        block = Block(rule, drafted.tokens, None, noise, len(text), tree=drafted.tree)
        [found] = verify_many([block], [pair.log_p[[state, *drafted.tokens]]])
        assert isinstance(found, BlockNumbers)
        judged = walk(drafted.tree, [candidate(accepted=chance == 1) for chance in found.acceptance])
        row = judged.path[-1] + 1 if judged.path else 0
        children = drafted.tree.children(row - 1)
        follows = found.corrections[children[-1]] if children else found.target_tokens[row]
        text += [*(drafted.tokens[index] for index in judged.path), follows]
        state = text[-1]
    own, state = [], start
    for index in range(len(text)):
        own.append(int(target_tokens(rule, pair.log_p[[state]], noise, index)))
        state = own[-1]
    assert text == own


def test_trees_and_chains_of_a_step_have_the_numbers_that_they_have_alone() -> None:
    pair = random_pair(8, 3)
    shapes = [Tree(), Tree([ROOT, ROOT, 0]), Tree([ROOT, 0, 0, 1, 1, 2]), Tree([ROOT])]
    for rule in Rule:
        blocks, log_p = [], []
        for at, tree in enumerate(shapes):
            tokens = tuple((3 * at + index) % 8 for index in range(len(tree) or 2))
            states = [at, *tokens]
            rows = [pair.rows[states[parent + 1]] for parent in (tree.parents or (ROOT, 0))]
            blocks.append(Block(rule, tokens, rows, NoiseStream(at), 5 * at, tree=tree))
            log_p.append(pair.log_p[states])
        together = verify_many(blocks, log_p)
        for each, block, own in zip(together, blocks, log_p, strict=True):
            [alone] = verify_many([block], [own])
            assert isinstance(each, BlockNumbers) and isinstance(alone, BlockNumbers)
            assert each.acceptance == pytest.approx(alone.acceptance, abs=1e-9)
            assert (each.corrections, each.target_tokens) == (alone.corrections, alone.target_tokens)


@pytest.mark.parametrize("rule", [Rule.RATIO, Rule.BLOCK])
def test_siblings_that_are_the_same_are_refused(rule: Rule) -> None:
    pair = PAIRS["plain"]
    block = Block(rule, (1, 1), [pair.rows[0]] * 2, NoiseStream(0), 0, tree=Tree([ROOT, ROOT]))
    [found] = verify_many([block], [pair.log_p[[0, 1, 1]]])
    assert isinstance(found, ValueError) and "elder sibling" in str(found)
