"""Drafting with the target's first layers, through the three services: each block is what a layer says of the committed
text, whatever has been kept, looked at or given way before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from draft_service.drafters.base import Candidates
from draft_service.drafters.early_exit import EarlyExitDrafter, EarlyExitSequence, _Drafting
from draft_service.drafters.exit_choice import ExitChoice
from tandem.inference.exits import ExitRunner
from tandem.v1 import draft_pb2
from tandem.wire import model_info
from tests.support.drafters import make
from tests.support.pair_law import VOCABULARY as FEW
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, serve_model, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 7, 5, 9, 5, 6, 7, 5, 9, 1, 2]
LAYERS = 6


@dataclass
class Drafted:
    """A block, the layer that it was drafted at, and the most candidates that it might have had."""

    tokens: list[int]
    exit: int
    most: int
    least: float
    block: Candidates


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Drafted]:
    """All that is drafted from now on."""
    found: list[Drafted] = []
    draft = EarlyExitSequence.draft

    async def noted(
        self: EarlyExitSequence,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        block = await draft(self, tokens, cached, round_number, limits)
        least = self._choice.threshold(self._exit)
        found.append(Drafted(list(tokens), self._exit, min(self._most, limits.max_tokens), least, block))
        return block

    monkeypatch.setattr(EarlyExitSequence, "draft", noted)
    return found


def said(tokens: list[int], exit: int, rows: int) -> torch.Tensor:
    """log q [rows, V] by transformers alone: hidden states behind a layer, the norm, the output layer."""
    model: Any = tiny_llama(2, layers=LAYERS).model
    with torch.inference_mode():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[exit]
        return model.lm_head(model.model.norm(states))[0, -rows:].log_softmax(-1)


def check(each: Drafted) -> None:
    block = each.block
    if not block.token_ids:
        assert each.most == 0
        return
    log_q = said([*each.tokens, *block.token_ids[:-1]], each.exit, len(block.token_ids))
    assert log_q.argmax(-1).tolist() == block.token_ids
    torch.testing.assert_close(log_q.amax(-1), torch.tensor(block.log_probabilities), rtol=0, atol=1e-4)
    # The block ends where it is long enough, or behind the first candidate that is not sure enough.
    sure = [value >= each.least for value in log_q.amax(-1).exp().tolist()]
    assert all(sure[:-1])
    if block.stop == draft_pb2.DRAFT_STOP_PROBABILITY:
        assert not sure[-1]
    else:
        assert block.stop == draft_pb2.DRAFT_STOP_MAX_TOKENS and len(block.token_ids) == each.most


async def test_each_block_is_what_its_layer_says(blocks: list[Drafted], monkeypatch: pytest.MonkeyPatch) -> None:
    """With another layer and length after each look, as a text may have them that changes its kind."""
    choices = itertools.cycle([(1, 2), (5, 12), (3, 6)])
    monkeypatch.setattr(ExitChoice, "best", lambda self: next(choices))
    looks = list[int]()
    begin = EarlyExitSequence.begin_look

    def looked(self: EarlyExitSequence, tokens: Sequence[int], cached: int) -> Sequence[int]:
        looks.append(len(tokens))
        return begin(self, tokens, cached)

    monkeypatch.setattr(EarlyExitSequence, "begin_look", looked)
    target = tiny_llama(2, layers=LAYERS)
    async with trio(target, make("early-exit", tiny_llama(2, layers=LAYERS), TOKENIZER), TOKENIZER) as services:
        alone = await services.complete(PROMPT, max_tokens=150)
        found = await services.complete(PROMPT, policy=policy("fixed", max_tokens=12), max_tokens=150)
    report = found.finish.speculation
    assert found.token_ids == alone.token_ids and report.draft_failures == 0
    assert 0 < report.accepted_tokens < report.drafted_tokens
    assert len(looks) >= 4 and {each.exit for each in blocks} == {1, 3, 5}
    assert {each.block.stop for each in blocks} >= {draft_pb2.DRAFT_STOP_PROBABILITY, draft_pb2.DRAFT_STOP_MAX_TOKENS}
    for each in blocks:
        check(each)


async def test_blocks_stay_right_where_the_cache_is_too_small_for_all(blocks: list[Drafted]) -> None:
    """Texts give way to each other and are run again, to the layer that they draft at."""
    served = serve_model(
        tiny_llama(2, layers=LAYERS), TOKENIZER, runner=ExitRunner, cache_bytes=10 * 16 * LAYERS * 2 * 2 * 16 * 4
    )
    drafter = EarlyExitDrafter(served.engine, model_info(served))
    async with trio(tiny_llama(2, layers=LAYERS), drafter, TOKENIZER) as services:
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


async def test_works_of_one_step_are_drawn_for_together_whatever_their_layers(blocks: list[Drafted]) -> None:
    drafter = make("early-exit", tiny_llama(2, layers=LAYERS), TOKENIZER)
    together = list[int]()
    receive = _Drafting.receive_all.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, works: Any, logits: Any) -> Any:
        together.append(len(works))
        return receive(cls, works, logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Drafting, "receive_all", classmethod(counted))
        async with trio(tiny_llama(2, layers=LAYERS), drafter, TOKENIZER) as services:
            prompts = [[number, *PROMPT, number] for number in range(4)]
            await asyncio.gather(
                *(services.complete(prompt, policy=policy("fixed"), max_tokens=30) for prompt in prompts)
            )
    assert max(together) > 1
    for each in blocks:
        check(each)


@pytest.mark.parametrize("accept", ["ratio", "block"])
async def test_lossless_in_distribution(accept: str) -> None:
    tokenizer = byte_tokenizer(FEW)
    reports = await check_pair_law(
        policy("fixed", accept, max_tokens=3),
        samples=250,
        max_tokens=5,
        drafter=lambda model: make("early-exit", model, tokenizer),
    )
    assert sum(report.drafted_tokens for report in reports) > 300
    assert sum(report.accepted_tokens for report in reports) > 50


async def test_it_names_the_model_whose_layers_it_takes_and_makes_no_trees() -> None:
    drafter = make("early-exit", tiny_llama(2), TOKENIZER)
    assert not drafter.info.trees and drafter.info.model_id == "early-exit:tiny-draft"
