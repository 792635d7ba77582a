"""A draft fed with the target's features, through the three services: each block is what the head says of the committed
text and the target's states along it, whatever was kept, lost or given way before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from draft_service.drafters.base import Candidates
from draft_service.drafters.features import FeaturesDrafter, FeaturesSequence
from orchestrator import stopping
from orchestrator.target_laws import TargetLaws
from tandem.inference.engine import EngineLimits
from tandem.inference.feeding import PROMPT_FEATURES, FedRunner, fed_inputs
from tandem.rpc.errors import TandemError
from tandem.v1 import draft_pb2, policy_pb2
from tandem.wire import model_info
from tests.services.test_told_drafters import Sometimes
from tests.support.drafters import make
from tests.support.fleet import Death, fleet
from tests.support.pair_law import VOCABULARY as FEW
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_head, tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, serve_model, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 7, 5, 9, 5, 6, 7, 5, 9, 1, 2]


@dataclass
class Drafted:
    """A block, and what the draft had: where its own text began, and how many tokens had features from there on."""

    tokens: list[int]
    first: int
    given: int
    block: Candidates


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Drafted]:
    """All that is drafted from now on."""
    found: list[Drafted] = []
    draft = FeaturesSequence.draft

    async def noted(self: FeaturesSequence, tokens: Sequence[int], *facts: Any, **others: Any) -> Candidates:
        block = await draft(self, tokens, *facts, **others)
        found.append(Drafted(list(tokens), self.first, len(self.given), block))
        return block

    monkeypatch.setattr(FeaturesSequence, "draft", noted)
    return found


@cache
def models() -> tuple[Any, Any]:
    """Target and head, as transformers has them."""
    return tiny_llama(2).model, tiny_head(tiny_llama(2)).model


def states(tokens: Sequence[int]) -> Tensor:
    """Of the target, behind its norm [T, H]."""
    with torch.inference_mode():
        return models()[0].get_decoder()(torch.tensor([tokens])).last_hidden_state[0]


def check(each: Drafted) -> None:
    """That the block is what the head says by transformers alone: true features as far as they go, as float16 carries
    them, and its own outputs behind them."""
    head, block = models()[1], each.block
    if not block.token_ids:
        assert block.stop == draft_pb2.DRAFT_STOP_NO_PROPOSAL
        return
    assert each.given and each.first + each.given <= len(each.tokens)
    # Position t - 1 has read what the token at t was drawn from; the first token of all was drawn from nothing.
    before = states(each.tokens)[each.first - 1 : each.first + each.given - 1].half().float()
    text = [*each.tokens[each.first :], *block.token_ids[:-1]]
    while len(before) < len(text):
        before = torch.cat([before, said(head, text[: len(before)], before)[0][-1:]])
    log_q = said(head, text, before)[1][-len(block.token_ids) :]
    assert log_q.argmax(-1).tolist() == block.token_ids
    torch.testing.assert_close(log_q.amax(-1), torch.tensor(block.log_probabilities), rtol=0, atol=2e-3)


def said(head: Any, tokens: Sequence[int], before: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        inputs = fed_inputs(head, torch.tensor([tokens]), before.unsqueeze(0))
        output = head.get_decoder()(inputs_embeds=inputs).last_hidden_state[0]
        return output, head.lm_head(output).log_softmax(-1)


async def test_each_block_is_what_the_head_says_of_the_target_s_features(blocks: list[Drafted]) -> None:
    prompt = [*range(1, 50), *PROMPT]
    async with trio(tiny_llama(2), make("features", tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        found = await services.complete(prompt, policy=policy("fixed", max_tokens=4), max_tokens=60)
        alone = await services.complete(prompt, max_tokens=60)
    report = found.finish.speculation
    assert found.token_ids == alone.token_ids and report.draft_failures == 0
    assert 0 < report.accepted_tokens < report.drafted_tokens
    assert len(blocks) > 10 and all(each.block.token_ids for each in blocks[:-1])
    for each in blocks:
        # The prompt's last tokens but for the first of them, and all that came after: none without a feature.
        assert each.first == len(prompt) + 1 - PROMPT_FEATURES and each.first + each.given == len(each.tokens)
        check(each)


@pytest.mark.parametrize("name", ["features", "suffix+features"])
async def test_what_the_target_made_alone_and_what_others_drafted_has_features_too(
    name: str, blocks: list[Drafted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "Goodput", lambda **options: Sometimes())
    async with trio(tiny_llama(2), make(name, tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        found = await services.complete(PROMPT, policy=policy("goodput", "exact"), max_tokens=60)
        alone = await services.complete(PROMPT, max_tokens=60)
    assert found.token_ids == alone.token_ids and found.finish.speculation.plain_tokens > 10
    assert len(blocks) > 1 and len(blocks[-1].tokens) > len(PROMPT) + 10
    for each in blocks:
        assert each.first == 1 and each.first + each.given == len(each.tokens)
        check(each)


@pytest.mark.parametrize("accept", ["ratio", "block"])
async def test_lossless_in_distribution(accept: str) -> None:
    tokenizer = byte_tokenizer(FEW)
    reports = await check_pair_law(
        policy("fixed", accept, max_tokens=3),
        samples=250,
        max_tokens=5,
        drafter=lambda model: make("features", model, tokenizer),
    )
    assert sum(report.drafted_tokens for report in reports) > 300
    assert sum(report.accepted_tokens for report in reports) > 50


async def test_where_features_are_lost_it_goes_on_with_its_own(
    blocks: list[Drafted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some tokens, and is silent behind more of them. With features that come after a gap it begins anew."""
    take, calls = TargetLaws.take, 0

    def lossy(self: TargetLaws[Any]) -> list[Any]:
        nonlocal calls
        found = take(self)
        calls += bool(found) and isinstance(found[0], bytes)
        return [] if 3 <= calls <= 4 or 7 <= calls <= 18 else found

    monkeypatch.setattr(TargetLaws, "take", lossy)
    async with trio(tiny_llama(2), make("features", tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        alone = await services.complete(PROMPT, max_tokens=60)
        found = await services.complete(PROMPT, policy=policy("fixed", max_tokens=3), max_tokens=60)
    assert found.token_ids == alone.token_ids and found.finish.speculation.draft_failures == 0
    missing = [len(each.tokens) - each.first - each.given for each in blocks if each.given]
    assert 0 in missing[1:] and any(0 < count <= 8 for count in missing) and max(missing) > 8
    assert len({each.first for each in blocks if each.given}) == 3
    for each in blocks:
        check(each)
    assert any(each.block.token_ids for each in blocks if 0 < len(each.tokens) - each.first - each.given)


@pytest.mark.parametrize(("side", "kind"), [("target", "verified"), ("draft", "block")])
async def test_another_target_or_draft_goes_on(side: str, kind: str, blocks: list[Drafted]) -> None:
    """A new target's prompt has features again, and what was not heard is asked for once more. A new draft has none
    before the target has answered once more, and begins with those of that round."""
    async with fleet() as made:
        targets = [await made.target(tiny_llama(2)) for _ in range(2)]
        drafts = [await made.draft(tiny_head(tiny_llama(2))) for _ in range(2)]
        orchestrator = await made.orchestrator(targets, drafts)
        await orchestrator.until(*targets, *drafts)
        death = Death(kind, 6)
        for service in targets if side == "target" else drafts:
            service.death = death
        found = await orchestrator.complete(PROMPT, policy=policy("fixed", max_tokens=3), max_tokens=60)
        alone = await orchestrator.complete(PROMPT, max_tokens=60)
    assert death.victim is not None and found.token_ids == alone.token_ids
    assert found.finish.speculation.draft_failures == (side == "draft")
    for each in blocks:
        check(each)
    starts = [each.first for each in blocks if each.given]
    if side == "target":
        assert set(starts) == {1}
    else:
        assert starts[0] == 1 and starts[-1] > len(PROMPT) and starts == sorted(starts)
        assert sum(len(each.block.token_ids) > 0 for each in blocks if each.first == starts[-1]) > 3


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 3}])
async def test_below_a_middle_model_it_reads_the_middle_s_features(
    sampling: dict[str, float], blocks: list[Drafted]
) -> None:
    """What the target rejects of the middle's text is taken back, and what was said behind it with it."""
    middle = tiny_llama(2)
    rules = policy("fixed", "coupled" if sampling else "exact", max_tokens=6)
    rules.stack = policy_pb2.STACK_BOTH
    target = tiny_llama(2, noise=0.3)
    async with trio(target, make("features", middle, TOKENIZER), TOKENIZER, middle=tiny_llama(2)) as services:
        found = await services.complete(PROMPT, policy=rules, max_tokens=60, sampling=sampling)
        alone = await services.complete(PROMPT, max_tokens=60, sampling=sampling)
    report = found.finish.speculation
    assert found.token_ids == alone.token_ids and report.draft_failures == 0
    assert 0 < report.accepted_tokens < report.drafted_tokens
    drafted = [each for each in blocks if each.block.token_ids]
    assert len(drafted) > 10
    # Some of its text was taken back.
    assert any(after.tokens[: len(each.tokens)] != each.tokens for each, after in itertools.pairwise(drafted))
    if not sampling:
        for each in blocks:
            check(each)


async def test_blocks_stay_right_where_the_cache_is_too_small_for_all(blocks: list[Drafted]) -> None:
    """Texts give way to each other and are run again, with the features that they were run with."""
    served = serve_model(tiny_head(tiny_llama(2)), TOKENIZER, runner=FedRunner, cache_bytes=9 * 16 * 2 * 2 * 16 * 4)
    drafter = FeaturesDrafter(served.engine, model_info(served))
    async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
        prompts = [[*PROMPT, number] for number in range(3)]
        alone = [await services.complete(prompt, max_tokens=70) for prompt in prompts]
        found = await asyncio.gather(
            *(services.complete(prompt, policy=policy("fixed"), max_tokens=70) for prompt in prompts)
        )
        assert drafter.load().preemptions > 0
    assert [each.token_ids for each in found] == [each.token_ids for each in alone]
    assert all(each.finish.speculation.draft_failures == 0 for each in found)
    for each in blocks:
        check(each)


async def test_a_target_whose_prompt_comes_in_pieces_or_was_known_gives_what_it_has(blocks: list[Drafted]) -> None:
    """What was found in its cache was not run, and has no features."""
    prompt = [*range(1, 60), *PROMPT]
    limits = EngineLimits(step_tokens=24)
    drafter = make("features", tiny_llama(2), TOKENIZER)
    async with trio(tiny_llama(2), drafter, TOKENIZER, target_limits=limits) as services:
        for _ in range(2):
            await services.complete(prompt, policy=policy("fixed", max_tokens=3), max_tokens=20)
    starts = sorted({each.first for each in blocks if each.given})
    assert starts[0] == len(prompt) + 1 - PROMPT_FEATURES and len(starts) == 2
    for each in blocks:
        check(each)


async def test_a_draft_that_reads_none_and_is_asked_in_its_place_is_told_none() -> None:
    """The head is full when its first block is asked for, with what the target has said by then."""
    async with fleet() as made:
        target = await made.target(tiny_llama(2))
        head, plain = await made.draft(tiny_head(tiny_llama(2))), await made.draft(tiny_llama(2, noise=0.02))
        orchestrator = await made.orchestrator([target], [head, plain])
        await orchestrator.until(target, head, plain)
        head.refuses = TandemError.overloaded("full", retry_after=0.0)
        async with asyncio.timeout(20):
            while not head.streams:  # whichever is chosen
                found = await orchestrator.complete(PROMPT, policy=policy("fixed", max_tokens=3), max_tokens=20)
                report = found.finish.speculation
                assert report.draft_failures == 0 and report.accepted_tokens > 0
