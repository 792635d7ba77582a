"""Bad requests: each is refused with its status, reason and field, before anything is opened, and harms nobody."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import grpc
import pytest

from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, policy_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

CONTEXT = 64
TOKENIZER = byte_tokenizer(129)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def services() -> AsyncIterator[Trio]:
    models = tiny_llama(1, vocabulary=129, context=CONTEXT), tiny_llama(1, vocabulary=129, context=CONTEXT)
    async with trio(*models, TOKENIZER) as running:
        yield running


def _chat(*messages: tuple[str, str]) -> completion_pb2.CompleteRequest:
    return completion_pb2.CompleteRequest(
        chat=completion_pb2.Chat(
            messages=[completion_pb2.ChatMessage(role=role, content=content) for role, content in messages]
        )
    )


def _sampling(**fields: object) -> completion_pb2.CompleteRequest:
    return make_request([1], sampling=fields)


def _policy(**fields: object) -> completion_pb2.CompleteRequest:
    return make_request([1], speculation=policy_pb2.SpeculationPolicy(**fields))


BAD = {
    "no prompt": (completion_pb2.CompleteRequest(), "prompt"),
    "empty text": (completion_pb2.CompleteRequest(text=""), "text"),
    "no tokens": (make_request([]), "tokens.ids"),
    "token outside the vocabulary": (make_request([1, 129, 2]), "tokens.ids[1]"),
    "no messages": (completion_pb2.CompleteRequest(chat=completion_pb2.Chat()), "chat.messages"),
    "unknown role": (_chat(("user", "a"), ("robot", "b")), "chat.messages[1].role"),
    "empty message": (_chat(("user", "")), "chat.messages[0].content"),
    "no chat template": (_chat(("user", "a")), "chat"),
    "prompt as long as the context": (make_request([1] * CONTEXT), "tokens"),
    "prompt far longer": (make_request([1] * 100_000), "tokens"),
    "max_tokens 0": (make_request([1], max_tokens=0), "max_tokens"),
    "max_tokens negative": (make_request([1], max_tokens=-5), "max_tokens"),
    "temperature negative": (_sampling(temperature=-0.1), "sampling.temperature"),
    "temperature NaN": (_sampling(temperature=math.nan), "sampling.temperature"),
    "temperature infinite": (_sampling(temperature=math.inf), "sampling.temperature"),
    "top_p 0": (_sampling(top_p=0.0), "sampling.top_p"),
    "top_p above 1": (_sampling(top_p=1.01), "sampling.top_p"),
    "top_p NaN": (_sampling(top_p=math.nan), "sampling.top_p"),
    "min_p above 1": (_sampling(min_p=1.5), "sampling.min_p"),
    "top_k too large": (_sampling(top_k=2**32 - 1), "sampling.top_k"),
    "repetition_penalty too small": (_sampling(repetition_penalty=1e-320), "sampling.repetition_penalty"),
    "bias that fp32 cannot hold": (_sampling(logit_bias={3: 1e39}), "sampling.logit_bias"),
    "repetition_penalty 0": (_sampling(repetition_penalty=0.0), "sampling.repetition_penalty"),
    "presence_penalty out of range": (_sampling(presence_penalty=2.5), "sampling.presence_penalty"),
    "frequency_penalty NaN": (_sampling(frequency_penalty=math.nan), "sampling.frequency_penalty"),
    "bias outside the vocabulary": (_sampling(logit_bias={129: 1.0}), "sampling.logit_bias"),
    "bias NaN": (_sampling(logit_bias={3: math.nan}), "sampling.logit_bias"),
    "all tokens forbidden": (_sampling(logit_bias=dict.fromkeys(range(129), -math.inf)), "sampling.logit_bias"),
    "off and a rule": (_policy(off=True, stop=policy().stop), "speculation.stop"),
    "block too long": (_policy(stop={"fixed": {}, "max_tokens": 65}), "speculation.stop.max_tokens"),
    "block of none": (_policy(stop={"max_tokens": 0}), "speculation.stop.max_tokens"),
    "gamma 0": (_policy(stop={"adaedl": {"gamma": 0.0}}), "speculation.stop.adaedl.gamma"),
    "jsd without threshold": (_policy(accept={"jsd": {}}), "speculation.accept.jsd.threshold"),
    "threshold above 1": (_policy(accept={"jsd": {"threshold": 1.5}}), "speculation.accept.jsd.threshold"),
    "budget negative": (_policy(accept={"adasd": {"lossy_budget": -1}}), "speculation.accept.adasd.lossy_budget"),
    "min_samples 0": (_policy(accept={"adasd": {"min_samples": 0}}), "speculation.accept.adasd.min_samples"),
    "too many stop texts": (make_request([1], stop=[f"s{i}" for i in range(17)]), "stop"),
    "empty stop text": (make_request([1], stop=["a", ""]), "stop[1]"),
    "stop token outside the vocabulary": (make_request([1], stop_token_ids=[4, 129]), "stop_token_ids[1]"),
    "request_id too long": (make_request([1], request_id="x" * 129), "request_id"),
    "request_id not printable": (make_request([1], request_id="a\nb"), "request_id"),
}


async def test_bad_requests_are_refused_by_field_and_the_service_goes_on(services: Trio) -> None:
    for name, (request, field) in BAD.items():
        error = await services.refusal(request)
        reason = "PROMPT_TOO_LONG" if "context" in name or "longer" in name else "INVALID_FIELD"
        assert (error.code, error.reason, error.field) == (INVALID, reason, field), name
        assert "\n" not in error.message and error.retry_after is None
        try:
            await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))
        except grpc.aio.AioRpcError as once:
            assert TandemError.from_rpc_error(once).field == f"completion.{field}", name
        else:
            raise AssertionError(name)
    assert services.target_engine.load().sequences == 0
    assert len((await services.complete([1], policy=policy(), max_tokens=3)).token_ids) == 3


async def test_a_field_of_a_newer_contract_is_refused_not_ignored(services: Trio) -> None:
    for path in ("", "speculation.accept", "sampling", "tokens"):
        request = make_request([1], sampling={"temperature": 0.0}, speculation=policy())
        message = request
        for name in path.split(".") if path else ():
            message = getattr(message, name)
        message.MergeFromString(b"\xf2\x3f\x00")  # field 1022, empty
        error = await services.refusal(request)
        assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED"), path
        assert error.field == (path or "CompleteRequest") and "1022" in error.message


async def test_a_large_prompt_does_not_hold_up_others(services: Trio) -> None:
    """Tokenising megabytes takes seconds; what is asked meanwhile is answered before that is over."""
    large = asyncio.ensure_future(services.refusal(completion_pb2.CompleteRequest(text="a b " * 1_500_000)))
    await asyncio.sleep(0.05)
    for _ in range(2):
        assert len((await services.complete([1], max_tokens=2)).token_ids) == 2
    assert not large.done()
    assert (await large).reason == "PROMPT_TOO_LONG"


async def test_a_prompt_too_long_says_by_how_much(services: Trio) -> None:
    error = await services.refusal(make_request([1] * 70))
    assert error.metadata == {"prompt_tokens": "70", "context_length": str(CONTEXT)}


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e-6, 1e6, 1e300])
async def test_extreme_temperatures_are_served(services: Trio, temperature: float) -> None:
    for each in (OFF, policy("fixed", "ratio"), policy("adasd", "adasd"), policy("fixed", "coupled")):
        sampling = {"temperature": temperature, "seed": 1}
        found = await services.complete([1, 2], policy=each, max_tokens=9, sampling=sampling)
        assert len(found.token_ids) == 9
        if temperature < 1e-5:
            greedy = await services.complete([1, 2], max_tokens=9)
            assert found.token_ids == greedy.token_ids


async def test_a_draft_with_another_tokenizer_is_refused_with_both_models() -> None:
    models = tiny_llama(1, vocabulary=129), tiny_llama(1, vocabulary=129)
    async with trio(*models, TOKENIZER, draft_fingerprint="another") as services:
        error = await services.refusal(make_request([1, 2]))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOKENIZER_MISMATCH")
        assert error.metadata["draft_model_id"] == "tiny-draft" and error.metadata["target_model_id"] == "tiny"
        alone = await services.complete([1, 2], policy=OFF, max_tokens=3)  # needs no draft
        assert len(alone.token_ids) == 3


async def test_a_draft_with_another_vocabulary_is_refused() -> None:
    async with trio(tiny_llama(1, vocabulary=129), tiny_llama(1, vocabulary=120), TOKENIZER) as services:
        assert (await services.refusal(make_request([1, 2]))).reason == "TOKENIZER_MISMATCH"
