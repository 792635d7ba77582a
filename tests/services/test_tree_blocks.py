"""Blocks that are trees, end to end over gRPC: lossless, and what is no tree is refused by its field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.rpc.channels import connect
from tandem.rpc.handshake import make_handshake
from tandem.trees import Tree
from tandem.v1 import completion_pb2, draft_pb2, draft_pb2_grpc, policy_pb2, target_pb2, target_pb2_grpc
from tests.services.test_streams import Talk
from tests.support.pair_law import check_pair_law
from tests.support.tiny import can_say, tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

VOCABULARY = 64
TOKENIZER = byte_tokenizer(VOCABULARY)
GREEDY, RATIO, BLOCK, COUPLED = 1, 2, 3, 4
SAMPLES = 250


@dataclass(slots=True)
class Audited:
    """A completion with the accounts of its rounds."""

    token_ids: list[int] = field(default_factory=list)
    tokens: list[completion_pb2.TokenAccount] = field(default_factory=list)
    log_probabilities: list[completion_pb2.TokenLogProbability] = field(default_factory=list)
    rounds: list[completion_pb2.RoundAccount] = field(default_factory=list)
    finish: completion_pb2.Finish = field(default_factory=completion_pb2.Finish)

    @property
    def trees(self) -> list[Tree]:
        return [Tree(each.parents) for each in self.rounds if each.parents]


async def audited(services: Trio, prompt: list[int], rules: policy_pb2.SpeculationPolicy, **fields: Any) -> Audited:
    request, found = make_request(prompt, speculation=rules, audit=True, **fields), Audited()
    async for message in services.stub.Complete(request, timeout=60.0):
        found.token_ids += message.token_ids
        found.tokens += message.tokens
        found.log_probabilities += message.log_probabilities
        if message.HasField("round"):
            found.rounds.append(message.round)
        if message.HasField("finish"):
            found.finish = message.finish
    return found


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    noise=st.sampled_from([0.02, 0.1, 0.4]),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    nodes=st.integers(2, 30),
    width=st.integers(2, 6),
)
def test_greedy_trees_give_the_targets_own_text(
    seed: int, noise: float, prompt: list[int], nodes: int, width: int
) -> None:
    async def check() -> None:
        async with trio(tiny_llama(seed), tiny_llama(seed, noise=noise), TOKENIZER) as services:
            alone = await services.complete(prompt, max_tokens=32)
            for stop in ("fixed", "adasd", "adaedl", "entropy", "confidence"):
                rules = policy(stop, "exact", tree_nodes=nodes, tree_width=width)
                found = await audited(services, prompt, rules, max_tokens=32)
                assert found.token_ids == list(alone.token_ids)
                assert found.finish.speculation.verify_steps > 0
                if stop == "fixed" and nodes > 8:  # few are best in one line
                    assert any(not tree.is_chain for tree in found.trees)

    asyncio.run(check())


async def test_a_tree_accepts_more_than_a_path_of_as_many_steps() -> None:
    """With a draft that is often wrong: more tokens for each verification, at temperature 0."""
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.3), TOKENIZER) as services:
        path = await services.complete([1, 2, 3], policy=policy("fixed", "exact", max_tokens=3), max_tokens=120)
        rules = policy("fixed", "exact", max_tokens=3, tree_nodes=24, tree_width=6)
        tree = await services.complete([1, 2, 3], policy=rules, max_tokens=120)
    assert tree.token_ids == path.token_ids
    report = tree.finish.speculation
    assert report.mean_acceptance_length > path.finish.speculation.mean_acceptance_length + 0.2
    assert len(report.accepted_at) == 3  # places, not candidates


@pytest.mark.parametrize("sampling", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}])
async def test_coupled_trees_give_the_text_of_the_seed(sampling: dict[str, float]) -> None:
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.2), TOKENIZER) as services:
        for seed in (0, 7, 2**64 - 1):
            with_seed = {**sampling, "seed": seed}
            alone = await services.complete([1, 2, 3], max_tokens=30, sampling=with_seed)
            for nodes in (4, 11):
                rules = policy("fixed", "coupled", max_tokens=4, tree_nodes=nodes)
                found = await audited(services, [1, 2, 3], rules, max_tokens=30, sampling=with_seed)
                assert found.token_ids == list(alone.token_ids)
                assert any(not tree.is_chain for tree in found.trees)


@pytest.mark.parametrize(
    ("stop", "accept", "sampling"),
    [("fixed", "ratio", {"temperature": 1.0}), ("adaedl", "exact", {"temperature": 1.0, "top_p": 0.9})],
)
async def test_trees_are_lossless_in_distribution(stop: str, accept: str, sampling: dict[str, float]) -> None:
    """A G-test over pairs of tokens; a right program fails with probability 1e-6."""
    rules = policy(stop, accept, max_tokens=3, tree_nodes=6, tree_width=3)
    reports = await check_pair_law(rules, samples=SAMPLES, sampling=sampling)
    assert sum(report.drafted_tokens for report in reports) >= 2 * SAMPLES


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_trees_under_penalties_and_least_lengths_are_the_targets_own(temperature: float) -> None:
    """Each path of a tree has a text of its own to look at."""
    sampling = {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "temperature": temperature, "seed": 5}
    fields: dict[str, Any] = {"max_tokens": 40, "min_tokens": 12, "stop_token_ids": [9, 10, 11], "sampling": sampling}
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.2), TOKENIZER) as services:
        alone = await services.complete([1, 2, 3], **fields)
        rules = policy("fixed", "coupled", max_tokens=4, tree_nodes=9)
        found = await services.complete([1, 2, 3], policy=rules, **fields)
    assert found.token_ids == alone.token_ids and found.finish.speculation.accepted_tokens > 0


async def test_a_draft_that_cannot_say_all_tokens_makes_trees() -> None:
    draft = can_say(tiny_llama(2, noise=0.1), list(range(0, VOCABULARY, 3)))
    async with trio(tiny_llama(2), draft, TOKENIZER) as services:
        alone = await services.complete([1, 2, 3], max_tokens=30)
        rules = policy("fixed", "exact", tree_nodes=9)
        found = await audited(services, [1, 2, 3], rules, max_tokens=30)
        sampling = {"temperature": 1.0, "seed": 1}
        sampled = await audited(services, [1, 2, 3], rules, max_tokens=30, sampling=sampling)
    assert found.token_ids == list(alone.token_ids) and found.trees
    assert len(sampled.token_ids) == 30 and sampled.trees


async def test_goodput_may_choose_trees_and_stays_lossless() -> None:
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.3), TOKENIZER) as services:
        alone = await services.complete([1, 2, 3], max_tokens=60)
        rules = policy("goodput", "exact", tree_width=3)
        found = await services.complete([1, 2, 3], policy=rules, max_tokens=60)
    assert found.token_ids == alone.token_ids


async def test_the_audit_of_a_tree_says_which_path_was_kept() -> None:
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.2), TOKENIZER) as services:
        rules = policy("fixed", "ratio", max_tokens=3, tree_nodes=9)
        sampling = {"temperature": 1.0, "seed": 2}
        found = await audited(services, [1, 2, 3], rules, max_tokens=60, sampling=sampling, log_probabilities=2)
    kept = 0
    for each in found.rounds:
        if each.parents:
            tree = Tree(each.parents)
            assert len(tree) == each.drafted and tree.is_path(each.path) and len(each.path) == each.kept
            kept += each.kept
    report = found.finish.speculation
    assert kept == report.accepted_tokens > 0
    for token, of_model in zip(found.tokens, found.log_probabilities, strict=True):
        # Without a chain that changes anything p is the model's own.
        assert token.target_log_probability == pytest.approx(of_model.log_probability, abs=1e-4)


async def test_the_accounts_of_tokens_are_those_of_the_target_alone() -> None:
    """Each number is of the token's own place in the tree."""
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.2), TOKENIZER) as services:
        rules = policy("fixed", "exact", max_tokens=3, tree_nodes=9)
        found = await audited(services, [1, 2, 3], rules, max_tokens=40)
        alone = await audited(services, [1, 2, 3], OFF, max_tokens=40)
    assert found.token_ids == alone.token_ids and found.trees
    for one, other in zip(found.tokens, alone.tokens, strict=True):
        assert one.target_entropy == pytest.approx(other.target_entropy, abs=1e-4)
        assert one.target_log_probability == pytest.approx(other.target_log_probability, abs=1e-4)


# What is refused.

OPEN = {"handshake": make_handshake(), "prompt_token_ids": [1, 2, 3], "verification": GREEDY}


@pytest.fixture
async def talk() -> AsyncIterator[SimpleNamespace]:
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER) as services:
        assert services.draft is not None
        async with connect(services.draft.address) as to_draft, connect(services.target.address) as to_target:
            drafts, targets = draft_pb2_grpc.DraftServiceStub(to_draft), target_pb2_grpc.TargetServiceStub(to_target)
            yield SimpleNamespace(
                draft=lambda: Talk(drafts.Draft(), draft_pb2.DraftRequest),
                target=lambda: Talk(targets.Verify(), target_pb2.VerifyRequest),
            )


def _verify(parents: list[int], tokens: list[int]) -> dict[str, Any]:
    block = {"position": 3, "token_ids": tokens, "parents": parents}
    return {"round": 1, "continuation": {"position": 3}, "block": block}


@pytest.mark.parametrize(
    ("parents", "tokens", "field"),
    [
        ([1, -1], [4, 5], "round.block.parents"),  # a parent after its child
        ([-1, -2], [4, 5], "round.block.parents"),
        ([-1, 0, -1], [4, 5, 6], "round.block.parents"),  # not level by level
        ([-1, -1, 0, 1, 0], [4, 5, 6, 7, 8], "round.block.parents"),
        ([-1] * 65, list(range(64)) + [0], "round.block.parents"),
        ([-1, 0], [4, 5, 6], "round.block.parents"),  # not as many
        ([-1, -1], [4, 4], "round.block.token_ids[1]"),
        ([-1, -1, 0, 0], [4, 5, 6, 6], "round.block.token_ids[3]"),
    ],
)
async def test_the_target_refuses_what_is_no_tree(
    talk: SimpleNamespace, parents: list[int], tokens: list[int], field: str
) -> None:
    target = talk.target()
    await target.ask(open=OPEN)
    error = await target.refusal(round=_verify(parents, tokens))
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_a_tree_under_ratio_needs_a_law_for_each_group_of_siblings(talk: SimpleNamespace, rows: int) -> None:
    target = talk.target()
    await target.ask(open=OPEN | {"verification": RATIO, "sampling": {"temperature": 1.0}})
    asked = _verify([-1, -1, 0], [4, 5, 6])
    row = {"token_ids": b"\4\0\0\0\5\0\0\0\6\0\0\0", "log_probabilities": b"\x65\xbc" * 3}  # log 1/3
    asked["block"]["distributions"] = [row] * rows
    error = await target.refusal(round=asked)
    assert (error.reason, error.field) == ("INVALID_FIELD", "round.block.distributions")


@pytest.mark.parametrize(
    ("kept", "path", "field"),
    [
        (1, [], "round.continuation.path"),
        (2, [0, 3], "round.continuation.path"),  # no child of it
        (1, [2], "round.continuation.path"),  # not from the text down
        (1, [9], "round.continuation.path"),
        (3, [0, 2, 3], "round.continuation.kept"),  # deeper than it is
    ],
)
async def test_what_is_kept_has_to_be_a_path(
    talk: SimpleNamespace, kept: int, path: list[int], field: str
) -> None:
    target = talk.target()
    await target.ask(open=OPEN)
    await target.ask(round=_verify([-1, -1, 0, 1], [4, 5, 6, 7]))
    goes_on = {"position": 3 + kept, "kept": kept, "path": path, "token_ids": [8]}
    error = await target.refusal(round={"round": 2, "continuation": goes_on, "block": {"position": 4 + kept}})
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


async def test_a_path_of_a_block_without_parents_is_refused(talk: SimpleNamespace) -> None:
    target = talk.target()
    await target.ask(open=OPEN)
    await target.ask(round=_verify([], [4, 5]))
    goes_on = {"position": 4, "kept": 1, "path": [0], "token_ids": [8]}
    error = await target.refusal(round={"round": 2, "continuation": goes_on, "block": {"position": 5}})
    assert error.field == "round.continuation.path"


async def test_after_a_tree_the_target_goes_on_from_the_path(talk: SimpleNamespace) -> None:
    """Verified, generated and verified again: the same tokens as of a stream that has never seen a tree."""
    one, other = talk.target(), talk.target()
    await one.ask(open=OPEN)
    await one.ask(round=_verify([-1, -1, -1, 1, 1, 4], [4, 5, 6, 7, 8, 9]))
    goes_on = {"position": 6, "kept": 3, "path": [1, 4, 5], "token_ids": [10]}
    generated = [(await one.ask(generate={"round": 2, "continuation": goes_on, "max_tokens": 1})).generated]
    await other.ask(open=OPEN | {"prompt_token_ids": [1, 2, 3, 5, 8, 9, 10]})
    expected = [(await other.ask(generate={"round": 2, "continuation": {"position": 7}, "max_tokens": 1})).generated]
    assert [token.token_id for token in generated] == [token.token_id for token in expected]
    assert generated[0].log_probability == pytest.approx(expected[0].log_probability, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parents": [1, -1], "limits": {"max_tokens": 3}}, "round.parents"),
        ({"parents": [-1, -1, 0], "limits": {"max_tokens": 2}}, "round.parents"),
        (
            {"parents": [-1, -1], "limits": {"max_tokens": 2}, "look_ahead": {"max_branches": 1}},
            "round.look_ahead",
        ),
    ],
)
async def test_the_draft_refuses_what_is_no_shape(talk: SimpleNamespace, fields: dict[str, Any], field: str) -> None:
    draft = talk.draft()
    await draft.ask(open=OPEN)
    error = await draft.refusal(round={"round": 1, "continuation": {"position": 3}} | fields)
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


@pytest.mark.parametrize("rule", [GREEDY, RATIO, BLOCK, COUPLED])
async def test_a_draft_makes_the_shape_that_is_asked_for(talk: SimpleNamespace, rule: int) -> None:
    sampled = rule in (RATIO, BLOCK)
    draft, parents = talk.draft(), [-1, -1, 0, 0, 1, 2, 5]
    opening = OPEN | {"verification": rule, "sampling": {"temperature": float(rule != GREEDY)}}
    await draft.ask(open=opening | {"format": {"max_entries": 8 * sampled}})
    asked = {"round": 1, "continuation": {"position": 3}, "limits": {"max_tokens": 7}, "parents": parents}
    block = (await draft.ask(round=asked)).block.block
    tree = Tree(block.parents)
    assert list(block.parents) == parents and tree.twins(block.token_ids) is None
    assert len(block.distributions) == (len(tree.families) if sampled else 0)
    # A chain behind the path that is kept, with the laws that it has without a tree.
    path = [0, 2, 5]
    text = [block.token_ids[index] for index in path]
    goes_on = {"position": 6, "kept": 3, "path": path, "token_ids": [8]}
    chain = (await draft.ask(round={"round": 2, "continuation": goes_on, "limits": {"max_tokens": 3}})).block.block
    other = talk.draft()
    await other.ask(open=opening | {"prompt_token_ids": [1, 2, 3, *text, 8], "format": {"max_entries": 8 * sampled}})
    asked = {"round": 2, "continuation": {"position": 7}, "limits": {"max_tokens": 3}}
    expected = (await other.ask(round=asked)).block.block
    assert not chain.parents and chain.token_ids == expected.token_ids
    assert list(chain.entropies) == pytest.approx(list(expected.entropies), abs=1e-4)


async def test_a_drafter_without_trees_refuses_them_by_name() -> None:
    async with trio(tiny_llama(1), PromptLookupDrafter(), TOKENIZER) as services:
        rules = policy("fixed", "exact", tree_nodes=4)
        error = await services.refusal(make_request([1, 2, 1, 2], speculation=rules, max_tokens=8))
        assert (error.reason, error.field) == ("NOT_SUPPORTED", "speculation.tree")
        assert services.draft is not None
        async with connect(services.draft.address) as channel:
            draft = Talk(draft_pb2_grpc.DraftServiceStub(channel).Draft(), draft_pb2.DraftRequest)
            await draft.ask(open=OPEN)
            asked = {"round": 1, "continuation": {"position": 3}, "limits": {"max_tokens": 2}, "parents": [-1, -1]}
            error = await draft.refusal(round=asked)
            assert (error.reason, error.field) == ("NOT_SUPPORTED", "round.parents")


def _policy(**fields: Any) -> policy_pb2.SpeculationPolicy:
    return policy_pb2.SpeculationPolicy(**fields)


@pytest.mark.parametrize(
    ("rules", "reason", "field"),
    [
        (_policy(off=True, tree={}), "INVALID_FIELD", "speculation.tree"),
        (_policy(tree={"nodes": 4}), "NOT_SUPPORTED", "speculation.tree"),  # AdaSD
        (_policy(stop={"fixed": {}}, accept={"block": {}}, tree={"nodes": 4}), "NOT_SUPPORTED", "speculation.tree"),
        (_policy(stop={"fixed": {}}, accept={"exact": {}}, tree={}), "INVALID_FIELD", "speculation.tree.nodes"),
        (_policy(accept={"exact": {}}, tree={"nodes": 0}), "INVALID_FIELD", "speculation.tree.nodes"),
        (_policy(accept={"exact": {}}, tree={"nodes": 65}), "INVALID_FIELD", "speculation.tree.nodes"),
        (_policy(accept={"exact": {}}, tree={"nodes": 4, "width": 9}), "INVALID_FIELD", "speculation.tree.width"),
        (_policy(accept={"exact": {}}, tree={"nodes": 4}, look_ahead=2), "INVALID_FIELD", "speculation.look_ahead"),
    ],
)
async def test_policies_that_do_not_go_together_are_refused(
    rules: policy_pb2.SpeculationPolicy, reason: str, field: str
) -> None:
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER) as services:
        error = await services.refusal(make_request([1, 2], speculation=rules, max_tokens=8))
    assert (error.reason, error.field) == (reason, field)


async def test_a_grammar_and_trees_do_not_go_together() -> None:
    async with trio(tiny_llama(1), tiny_llama(1), byte_tokenizer(VOCABULARY, ends=(0,))) as services:
        rules = policy("fixed", "exact", tree_nodes=4)
        request = make_request([1, 2], speculation=rules, max_tokens=8, grammar={"regex": "[0-9]+"})
        error = await services.refusal(request)
    assert (error.reason, error.field) == ("NOT_SUPPORTED", "speculation.tree")
