"""Faults and leave-taking: a lost draft loses no token, a lost target is said, leaving frees memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import grpc
import pytest

from draft_service.drafters.base import Candidates, SequenceSpec
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, draft_pb2, model_pb2, target_pb2_grpc
from tandem.wire import model_info
from target_service.server import TargetServicer
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, serve_model, trio

TOKENIZER = byte_tokenizer(64)
LENGTH = 200


async def _until_idle(services: Trio) -> None:
    """Waits until no engine holds a sequence or memory of one; fails by the deadline."""
    engines = [services.target_engine] + ([services.draft_engine] if services.draft_engine else [])
    async with asyncio.timeout(20):
        while any(engine.load().sequences or engine.load().cache_bytes for engine in engines):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("accept", ["exact", "coupled"])
async def test_killing_the_draft_never_loses_a_token(accept: str) -> None:
    sampling = {"temperature": 0.0 if accept == "exact" else 1.0, "seed": 3}
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.02), TOKENIZER) as services:
        alone = await services.complete([1, 2], max_tokens=LENGTH, sampling=sampling)
        request = make_request(
            [1, 2], speculation=policy("fixed", accept), max_tokens=LENGTH, sampling=sampling, audit=True
        )
        tokens, killed_at, finish = [], 0, None
        async for response in services.stub.Complete(request):
            tokens += response.tokens
            if not killed_at and len(tokens) > 20:
                killed_at = len(tokens)
                assert services.draft is not None
                services.draft.grace_seconds = 0
                await services.draft.drain()
            finish = response.finish
        assert [token.token_id for token in tokens] == list(alone.token_ids)
        assert finish is not None and finish.speculation.draft_failures == 1
        assert finish.speculation.accepted_tokens > 5
        assert tokens[-1].source == completion_pb2.TOKEN_SOURCE_TARGET
        # And the next request, for which there is no draft from the beginning.
        later = await services.complete([1, 2], policy=policy("fixed", accept), max_tokens=LENGTH, sampling=sampling)
        assert later.token_ids == alone.token_ids and later.finish.speculation.draft_failures == 1
        await _until_idle(services)


async def test_a_lost_target_is_said_with_its_reason_and_a_time_to_retry() -> None:
    patience = {"connect_timeout_seconds": 0.5, "target_patience_seconds": 0.5}
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER, **patience) as services:
        received, error = 0, None
        try:
            async for response in services.stub.Complete(make_request([1], max_tokens=LENGTH)):
                received += len(response.token_ids)
                services.target.grace_seconds = 0
                await services.target.drain()
        except grpc.aio.AioRpcError as caught:
            error = caught
        assert received and error is not None and error.code() is grpc.StatusCode.UNAVAILABLE
        refused = await services.refusal(make_request([1], max_tokens=3))
        assert (refused.reason, refused.code) == ("TARGET_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
        assert refused.retry_after is not None and refused.retry_after > 0
        assert refused.message == f"the target service at {services.target.address} does not answer: is it running?"


@pytest.mark.parametrize("policy_name", ["off", "fixed", "adasd"])
async def test_a_caller_that_leaves_frees_what_it_held(policy_name: str) -> None:
    chosen = OFF if policy_name == "off" else policy(policy_name)
    async with trio(tiny_llama(1, context=4096), tiny_llama(1, context=4096), TOKENIZER) as services:
        for leave_after in (0, 1, 3):
            call = services.stub.Complete(make_request([1, 2], speculation=chosen, max_tokens=4000))
            for _ in range(leave_after):
                await call.read()
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await services.complete([1, 2], policy=chosen, max_tokens=4000, timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await _until_idle(services)
        assert len((await services.complete([1, 2], policy=chosen, max_tokens=5)).token_ids) == 5


class _Unruly(PromptLookupDrafter):
    """A drafter whose blocks are whatever `blocks` says, one after another; None never answers."""

    def __init__(self, *blocks: Candidates | None) -> None:
        super().__init__()
        self._blocks = list(blocks)

    async def open(self, spec: SequenceSpec) -> _Unruly:
        return self

    async def draft(
        self,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        *,
        foresees: bool = False,
    ) -> Candidates:
        block = self._blocks.pop(0)
        if block is None:
            await asyncio.Event().wait()
        assert block is not None
        return block

    def look_ahead(self, *plan: object) -> None:
        """It does not."""

    def ahead(self) -> tuple[()]:
        return ()

    @property
    def info(self) -> model_pb2.ModelInfo:
        return model_pb2.ModelInfo(model_id="unruly")

    @info.setter
    def info(self, value: model_pb2.ModelInfo) -> None:
        """The base class sets its own."""


def _candidates(*token_ids: int, entropies: int | None = None, log_q: float = -1.0) -> Candidates:
    size = len(token_ids)
    return Candidates(
        token_ids=list(token_ids),
        log_probabilities=[log_q] * size,
        entropies=[0.5] * (size if entropies is None else entropies),
    )


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(None, id="never answers"),
        pytest.param(_candidates(1, 2, 3, 4, 5, 6), id="more than asked for"),
        pytest.param(_candidates(1, 64), id="outside the vocabulary"),
        pytest.param(_candidates(1, 2, entropies=1), id="columns of different lengths"),
        pytest.param(_candidates(1, 2, log_q=800.0), id="probabilities above 1"),
        pytest.param(_candidates(1, 2, log_q=math.nan), id="no numbers"),
    ],
)
async def test_a_draft_that_misbehaves_is_given_up_and_no_token_is_lost(block: Candidates | None) -> None:
    drafter = _Unruly(_candidates(7, 8, 9), _candidates(), block)
    async with trio(tiny_llama(1), drafter, TOKENIZER, draft_timeout_seconds=2.0) as services:
        alone = await services.complete([1, 2], max_tokens=20)
        found = await services.complete([1, 2], policy=policy("fixed"), max_tokens=20)
        assert found.token_ids == alone.token_ids
        assert found.finish.speculation.draft_failures == 1
        assert found.finish.speculation.drafted_tokens == 3
        await _until_idle(services)


async def test_a_block_that_the_target_refuses_costs_the_draft_not_the_request() -> None:
    """Under the ratio test every candidate needs its distribution."""
    drafter = _Unruly(_candidates(), _candidates(7, 8, 9))
    sampling = {"temperature": 1.0, "seed": 5}
    async with trio(tiny_llama(1), drafter, TOKENIZER) as services:
        found = await services.complete([1, 2], policy=policy("fixed", "ratio"), max_tokens=20, sampling=sampling)
        assert len(found.token_ids) == 20
        assert found.finish.speculation.draft_failures == 1 and found.finish.speculation.drafted_tokens == 0
        await _until_idle(services)


async def test_a_draft_that_is_sure_is_not_taken_for_a_broken_one() -> None:
    """Probabilities of 1: their logarithms and entropies are 0 but for rounding, on either side."""
    async with trio(tiny_llama(1), tiny_llama(1), TOKENIZER) as services:
        for accept in ("ratio", "block", "coupled", "adasd"):
            sampling = {"temperature": 0.01, "top_k": 1, "seed": 1}
            found = await services.complete([1, 2], policy=policy("fixed", accept), max_tokens=60, sampling=sampling)
            assert found.finish.speculation.draft_failures == 0
            assert found.finish.speculation.draft_acceptance_rate == 1
    drafter = _Unruly(_candidates(7, 8, log_q=2e-7), _candidates(), _candidates(log_q=0))
    async with trio(tiny_llama(1), drafter, TOKENIZER) as services:
        found = await services.complete([1, 2], policy=policy("fixed"), max_tokens=4)
        assert found.finish.speculation.draft_failures == 0


async def test_a_draft_that_says_nothing_delays_requests_once_and_fails_none() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {"draft_address": address, "connect_timeout_seconds": 1.0}
    async with server, trio(tiny_llama(1), None, TOKENIZER, **settings) as services:
        alone = await services.complete([1, 2], max_tokens=20)
        for _ in range(3):
            found = await services.complete([1, 2], policy=policy("fixed"), max_tokens=20)
            assert found.token_ids == alone.token_ids
            assert found.finish.speculation.draft_failures == 1
            assert found.finish.speculation.accept_rule == "off" and not found.finish.speculation.lossy
        models = await services.stub.GetModels(completion_pb2.GetModelsRequest())
        assert models.target.model_id and not models.draft.model_id


async def test_a_target_replaced_by_another_tokenizers_is_noticed() -> None:
    async with trio(tiny_llama(1), None, TOKENIZER) as services:
        await services.complete([1, 2], max_tokens=3)
        other = serve_model(tiny_llama(1), TOKENIZER, fingerprint="another")
        other.engine.start()
        port = services.target.port
        services.target.grace_seconds = 0
        await services.target.drain()
        replaced = Server(port=port)
        servicer = TargetServicer(other.engine, model_info(other), other.grammars)
        replaced.add(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer, "tandem.v1.TargetService")
        async with replaced:
            reasons = {(await services.refusal(make_request([1], speculation=OFF))).reason for _ in range(3)}
            assert reasons <= {"TOKENIZER_MISMATCH", "TARGET_UNAVAILABLE"} and "TOKENIZER_MISMATCH" in reasons
        await other.engine.close()


async def test_services_may_come_up_in_any_order() -> None:
    """A request that comes before the target waits for it."""
    async with trio(tiny_llama(1), None, TOKENIZER, connect_timeout_seconds=10.0) as services:
        port = services.target.port
        services.target.grace_seconds = 0
        await services.target.drain()
        answer = asyncio.ensure_future(services.complete([1], max_tokens=3))
        await asyncio.sleep(0.3)
        assert not answer.done()
        services.target.port = port
        await services.target.start()
        assert len((await answer).token_ids) == 3
