"""A target that verifies no more than a budget of candidates in a step: texts and laws are as without it."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tandem.inference.engine import EngineLimits
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import block_pb2, completion_pb2, model_pb2, sampling_pb2, target_pb2, target_pb2_grpc
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, policy, trio

TOKENIZER = byte_tokenizer(64)
CALLERS = 8
#: Less than eight callers' blocks have together.
BUDGET = EngineLimits(candidates=9)
AHEAD = EngineLimits(ahead_rows=16)


async def texts(
    services: Trio, accept: str, sampling: dict[str, object], stop: str = "fixed"
) -> list[completion_pb2.CompleteOnceResponse]:
    """Of as many callers at once, each with a prompt of its own."""

    async def ask(caller: int) -> completion_pb2.CompleteOnceResponse:
        rules = policy(stop, accept)
        own = {**sampling, "seed": caller}
        return await services.complete([caller + 1, 2, 3], policy=rules, max_tokens=40, sampling=own)

    return list(await asyncio.gather(*map(ask, range(CALLERS))))


@pytest.mark.parametrize(
    ("accept", "sampling", "ahead"),
    [
        ("exact", {"temperature": 0.0}, AHEAD),
        ("coupled", {"temperature": 0.8}, AHEAD),
    ],
)
async def test_eight_callers_get_the_texts_of_the_target_alone(accept, sampling, ahead) -> None:
    async with trio(
        tiny_llama(1), tiny_llama(1, noise=0.05), TOKENIZER, target_limits=BUDGET, draft_limits=ahead
    ) as services:
        alone = [
            await services.complete([caller + 1, 2, 3], max_tokens=40, sampling={**sampling, "seed": caller})
            for caller in range(CALLERS)
        ]
        found = [(stop, await texts(services, accept, sampling, stop)) for stop in ("fixed", "goodput")]
    for stop, answers in found:
        assert [list(each.token_ids) for each in answers] == [list(each.token_ids) for each in alone], stop
    reports = [answer.finish.speculation for answer in found[0][1]]
    assert sum(report.unsubmitted_tokens for report in reports) > 0
    assert sum(report.accepted_tokens for report in reports) > 0
    for report in reports:
        assert report.accepted_tokens + report.verify_steps + report.plain_tokens >= 40


async def test_a_target_that_weighs_candidates_changes_no_text() -> None:
    weighs = EngineLimits(weighs_candidates=True)
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.4), TOKENIZER, target_limits=weighs) as services:
        alone = [
            await services.complete([caller + 1, 2, 3], max_tokens=40, sampling={"seed": caller})
            for caller in range(CALLERS)
        ]
        found = await texts(services, "exact", {"temperature": 0.0})
    assert [list(each.token_ids) for each in found] == [list(each.token_ids) for each in alone]


async def test_a_caller_by_itself_has_all_of_its_candidates_verified() -> None:
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.05), TOKENIZER, target_limits=BUDGET) as services:
        found = await services.complete([1, 2, 3], policy=policy("fixed", "exact"), max_tokens=40)
    assert found.finish.speculation.unsubmitted_tokens == 0


async def test_a_lossy_rule_goes_on_with_what_was_considered() -> None:
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.2), TOKENIZER, target_limits=BUDGET) as services:
        for temperature in (0.0, 0.9):
            found = await texts(services, "adasd", {"temperature": temperature})
            assert all(len(each.token_ids) == 40 for each in found)
            assert sum(each.finish.speculation.unsubmitted_tokens for each in found) > 0


@pytest.mark.parametrize("accept", ["ratio", "block"])
async def test_the_law_of_the_text_is_the_targets(accept: str) -> None:
    reports = await check_pair_law(policy("fixed", accept), samples=250, target_limits=EngineLimits(candidates=2))
    assert sum(report.unsubmitted_tokens for report in reports) > 100


async def refusal(services: Trio, block: block_pb2.Block, kept: int | None = None) -> TandemError | None:
    """With which a stream ends that sends the block, and then that so many of it were kept; None where it does not."""
    model = model_pb2.ModelInfo(
        model_id="test", tokenizer_fingerprint=TOKENIZER.fingerprint, vocabulary_size=TOKENIZER.vocabulary_size
    )
    opening = target_pb2.VerifyOpen(
        handshake=make_handshake(model),
        prompt_token_ids=[1, 2, 3],
        sampling=sampling_pb2.SamplingParams(temperature=0.0),
        verification=sampling_pb2.VERIFICATION_RULE_GREEDY,
        random_key=sampling_pb2.RandomKey(seed=1),
    )
    async with grpc.aio.insecure_channel(services.target.address) as channel:
        call = target_pb2_grpc.TargetServiceStub(channel).Verify()
        await call.write(target_pb2.VerifyRequest(open=opening))
        first = block_pb2.Continuation(position=3)
        await call.write(
            target_pb2.VerifyRequest(round=target_pb2.VerifyRound(round=1, continuation=first, block=block))
        )
        try:
            await call.read()
            assert (await call.read()).WhichOneof("kind") == "verified"
            if kept is not None:
                then = block_pb2.Continuation(position=3 + kept, kept=kept, token_ids=[7])
                after = target_pb2.VerifyRound(
                    round=2, continuation=then, block=block_pb2.Block(position=4 + kept)
                )
                await call.write(target_pb2.VerifyRequest(round=after))
                assert (await call.read()).verified.round == 2
        except grpc.aio.AioRpcError as error:
            return TandemError.from_rpc_error(error)
    return None


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"entropies": [1.0, 1.0]}, "round.block.log_probabilities"),
        ({"log_probabilities": [-1.0, -1.0], "entropies": [1.0]}, "round.block.entropies"),
        ({"log_probabilities": [-1.0, float("nan")], "entropies": [1.0, 1.0]}, "round.block.log_probabilities"),
    ],
)
async def test_a_block_that_cannot_be_ranked_is_refused_with_its_field(columns, field: str) -> None:
    block = block_pb2.Block(position=3, token_ids=[5, 6], **columns)
    async with trio(tiny_llama(1), None, TOKENIZER, target_limits=BUDGET) as services:
        error = await refusal(services, block)
        assert error is not None and (error.reason, error.field) == ("INVALID_FIELD", field)


async def test_no_candidate_that_was_left_off_can_be_kept() -> None:
    block = block_pb2.Block(position=3, token_ids=[5] * 4, log_probabilities=[-1.0] * 4, entropies=[1.0] * 4)
    async with trio(tiny_llama(1), None, TOKENIZER, target_limits=EngineLimits(candidates=2)) as services:
        assert await refusal(services, block, kept=2) is None
        error = await refusal(services, block, kept=3)
    assert error is not None
