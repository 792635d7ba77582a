"""The middle model of a stack by itself: what it gathers, and how its text goes on after some of it was rejected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orchestrator.acceptance import Verification
from orchestrator.account import RoundClock
from orchestrator.opening import verification
from orchestrator.request import Plan, plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stack.middle import Middle, in_the_middle
from orchestrator.stopping import FixedLength
from orchestrator.watch import Watch
from tandem.telemetry import Telemetry
from tandem.v1 import draft_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [1, 2, 3]


async def planned(services: Trio, accept: str = "exact", **sampling: float) -> Plan:
    request = make_request(PROMPT, speculation=policy("fixed", accept), max_tokens=60, sampling=sampling)
    [found] = plan(request, TOKENIZER, await services.completions._upstream.target_model())
    return found


@asynccontextmanager
async def gathering(services: Trio, *, with_draft: bool = True) -> AsyncIterator[Middle]:
    """A middle over a draft whose blocks have three candidates."""
    upstream, made = services.completions._upstream, await planned(services)
    with await upstream.pair(speculates=True) as pair:
        below = upstream.middle(pair, with_draft=with_draft)
        assert below is not None
        watch = Watch(Telemetry(), None, speculates=False)
        with below:
            middle = Middle(made, below, OrchestratorSettings(), made.tokens, watch, FixedLength(3))
            await middle.open()
            try:
                yield middle
            finally:
                middle.close()


async def go_on(middle: Middle, count: int) -> list[int]:
    block = await middle.block(draft_pb2.DraftLimits(max_tokens=count), RoundClock())
    assert len(block.log_probabilities) == len(block.entropies) == len(block.token_ids)
    return list(block.token_ids)


async def greedy(services: Trio, prompt: list[int], count: int) -> list[int]:
    return list((await services.complete(prompt, max_tokens=count)).token_ids)


async def test_each_level_gathers_what_the_next_one_wants() -> None:
    """T_0 = 3 and T_1 = 6, as in the trace of arXiv 2510.19705, by hand, of models that agree: three are drafted and
    verified, which makes four; two are missing, so one is drafted and verified, which makes two more."""
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER, middle=tiny_llama(1)) as services:
        async with gathering(services) as middle:
            assert await go_on(middle, 6) == await greedy(services, PROMPT, 6)
        found = middle.account
        assert (found.verify_steps, found.drafted, found.accepted) == (2, 4, 4)


@pytest.mark.parametrize("with_draft", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 4, 6])
async def test_the_text_goes_on_from_what_was_kept_of_it(with_draft: bool, kept: int) -> None:
    models = tiny_llama(1), tiny_llama(1, noise=0.1)
    async with trio(*models, TOKENIZER, middle=tiny_llama(1)) as services:
        async with gathering(services, with_draft=with_draft) as middle:
            block = await go_on(middle, 6)
            for token in (40, 41, 42):  # each time the target says something else
                text = [*PROMPT, *block[:kept], token]
                middle.become(text, len(PROMPT) + kept)
                after = await go_on(middle, 5)
                assert after == await greedy(services, text, 5)
                middle.become([*PROMPT, *block], len(PROMPT) + kept)  # and back to the first text
                assert await go_on(middle, 3) == await greedy(services, [*PROMPT, *block], 3)
                middle.become([*PROMPT, *block], len(PROMPT) + len(block))
            assert (middle.account.verify_steps > 0) == with_draft and middle.account.draft_failures == 0


async def test_limits_end_a_block_as_they_end_a_drafts() -> None:
    models = tiny_llama(1), tiny_llama(1, noise=0.1)
    async with trio(*models, TOKENIZER, middle=tiny_llama(1)) as services, gathering(services) as middle:
        whole = await middle.block(draft_pb2.DraftLimits(max_tokens=8), RoundClock())
        middle.become(PROMPT, len(PROMPT))
        ceiling = sorted(whole.entropies)[4] + 1e-4  # sums over other steps differ in their last digits
        limits = draft_pb2.DraftLimits(max_tokens=8, max_entropy_before=ceiling)
        cut = await middle.block(limits, RoundClock())
        first = next(at for at, entropy in enumerate(whole.entropies) if entropy > ceiling)
        assert list(cut.token_ids) == list(whole.token_ids)[:first]


async def test_only_rules_whose_draws_agree_share_noise_with_the_target() -> None:
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER) as services:
        for rule in (Verification.RATIO, Verification.BLOCK, Verification.COUPLED):
            made = await planned(services, rule.name.lower(), temperature=1.0, seed=3)
            below = in_the_middle(made, FixedLength(3))
            assert verification(below) is verification(made) is rule
            assert (below.choice == made.choice) == (rule is Verification.COUPLED)
            assert below.seed == made.seed
