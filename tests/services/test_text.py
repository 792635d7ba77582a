"""From tokens to the caller's text: ends, stop texts, characters over several tokens, the edges of a block."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer, ids
from tests.support.trio import OFF, make_request, policy, trio

#: Ids of all ASCII bytes: any text of such a model is a string of its own length.
ASCII = byte_tokenizer(129)


async def test_the_first_drafted_token_is_verified() -> None:
    """A draft that knows nothing of the target must change nothing, blocks of one candidate included."""
    async with trio(tiny_llama(1), tiny_llama(77), byte_tokenizer(64)) as services:
        alone = await services.complete([3, 4], max_tokens=40)
        for length in (1, 2, 8):
            found = await services.complete([3, 4], policy=policy("fixed", max_tokens=length), max_tokens=40)
            assert found.token_ids == alone.token_ids
            assert found.finish.speculation.draft_acceptance_rate < 0.3
            assert sum(found.finish.speculation.accepted_at) == found.finish.speculation.accepted_tokens


async def test_token_0_works_as_a_candidate_as_a_correction_and_as_a_rejected_one() -> None:
    bias = {"logit_bias": {0: 2.0}}
    async with trio(tiny_llama(1), tiny_llama(1, noise=0.3), byte_tokenizer(64)) as services:
        alone = await services.complete([3, 4], max_tokens=150, sampling=bias)
        found = await services.complete([3, 4], policy=policy("fixed"), max_tokens=150, sampling=bias, audit=True)
    assert found.token_ids == alone.token_ids
    matched, correction = completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED, completion_pb2.TOKEN_SOURCE_CORRECTION
    assert {matched, correction} <= {token.source for token in found.tokens if token.token_id == 0}
    assert any(token.HasField("rejected_token_id") and token.rejected_token_id == 0 for token in found.tokens)


@pytest.mark.parametrize("where", ["request", "model", "tokenizer"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
async def test_an_end_token_inside_a_block_ends_the_text_there(where: str, noise: float) -> None:
    target, draft = tiny_llama(1, vocabulary=129), tiny_llama(1, vocabulary=129, noise=noise)
    async with trio(target, draft, ASCII) as services:
        text = list((await services.complete([3, 4], max_tokens=40)).token_ids)
    at = next(index for index in range(4, 40) if text[index] not in text[:index])
    end = text[at]
    if where == "model":
        target = dataclasses.replace(target, end_token_ids=(end,))
    tokenizer = byte_tokenizer(129, ends=(end,)) if where == "tokenizer" else ASCII
    async with trio(target, draft, tokenizer) as services:
        fields = {"stop_token_ids": [end]} if where == "request" else {}
        found = [
            await services.complete([3, 4], policy=policy("fixed", max_tokens=8), max_tokens=40, **fields),
            await services.complete([3, 4], max_tokens=40, **fields),
            await services.complete([3, 4], policy=policy("adasd", "adasd"), max_tokens=at + 1, **fields),
        ]
        on = await services.complete(
            [3, 4], policy=policy("fixed", max_tokens=8), max_tokens=40, ignore_end_tokens=True
        )
    for each in found[:2]:
        assert list(each.token_ids) == text[: at + 1]
        assert each.text == ASCII.decode(text[:at])
        assert each.finish.reason == completion_pb2.FINISH_REASON_STOP
    assert len(found[2].token_ids) <= at + 1
    assert list(on.token_ids) == text and on.finish.reason == completion_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("length", [1, 2, 3, 7])
async def test_a_stop_text_ends_the_text_wherever_the_borders_of_blocks_fall(length: int) -> None:
    target, draft = tiny_llama(6, vocabulary=129), tiny_llama(6, vocabulary=129, noise=0.03)
    each_block = policy("fixed", max_tokens=length)
    async with trio(target, draft, ASCII) as services:
        whole = (await services.complete([3, 4], max_tokens=40)).text
        for start in range(0, 30, 3):
            for size in (1, 2, 5):
                stop = whole[start : start + size]
                request = make_request([3, 4], speculation=each_block, max_tokens=40, stop=["\0nowhere", stop])
                pieces = [response async for response in services.stub.Complete(request)]
                finish = pieces[-1].finish
                assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
                assert finish.reason == completion_pb2.FINISH_REASON_STOP and finish.stop == stop
                assert not any(piece.HasField("finish") for piece in pieces[:-1])
                assert sum(len(piece.token_ids) for piece in pieces) == finish.usage.completion_tokens


async def test_a_text_that_only_begins_like_a_stop_text_is_not_lost() -> None:
    async with trio(tiny_llama(6, vocabulary=129), tiny_llama(6, vocabulary=129), ASCII) as services:
        whole = (await services.complete([3, 4], max_tokens=20)).text
        never = whole[-3:] + "\0never"
        found = await services.complete([3, 4], policy=policy(), max_tokens=20, stop=[never])
    assert found.text == whole
    assert found.finish.reason == completion_pb2.FINISH_REASON_LENGTH and not found.finish.stop


@pytest.mark.parametrize("accept", ["exact", "adasd"])
async def test_characters_over_several_tokens_stream_whole(accept: str) -> None:
    tokenizer = byte_tokenizer(257)
    # Only the bytes of two characters of three and two bytes: whole, torn and mixed ones come up.
    allowed = set(ids("€é"))
    bias = {token: -math.inf for token in range(257) if token not in allowed}
    target, draft = tiny_llama(6, vocabulary=257), tiny_llama(6, vocabulary=257, noise=0.2)
    seen = 0
    async with trio(target, draft, tokenizer) as services:
        for seed in range(6):
            request = make_request(
                ids("x"),
                speculation=policy("fixed", accept),
                max_tokens=60,
                sampling={"temperature": 1.5, "seed": seed, "logit_bias": bias},
                audit=True,
            )
            pieces = [response async for response in services.stub.Complete(request)]
            tokens = [token for piece in pieces for token in piece.token_ids]
            text = "".join(piece.text for piece in pieces)
            assert text == bytes(token - 1 for token in tokens).decode(errors="replace")
            assert text.startswith("".join(token.text for piece in pieces for token in piece.tokens))
            seen += text.count("€") + text.count("é")
    assert seen > 10


async def test_max_tokens_is_exact_and_the_context_ends_the_text() -> None:
    target, draft = tiny_llama(1, context=48), tiny_llama(1, context=48, noise=0.02)
    async with trio(target, draft, byte_tokenizer(64)) as services:
        for wanted in (1, 2, 3, 9):
            for each in (OFF, policy("fixed", max_tokens=20)):
                found = await services.complete([3, 4], policy=each, max_tokens=wanted)
                assert len(found.token_ids) == wanted == found.finish.usage.completion_tokens
        alone = await services.complete([3, 4], max_tokens=10_000)
        found = await services.complete([3, 4], policy=policy("fixed", max_tokens=20), max_tokens=10_000)
        last = await services.complete([3] * 47, policy=policy("fixed"), max_tokens=5)
    assert len(alone.token_ids) == 46 and found.token_ids == alone.token_ids
    assert found.finish.reason == completion_pb2.FINISH_REASON_LENGTH
    assert len(last.token_ids) == 1


async def test_a_draft_with_a_shorter_context_leaves_the_rest_to_the_target() -> None:
    target, draft = tiny_llama(1, context=96), tiny_llama(1, context=24)
    async with trio(target, draft, byte_tokenizer(64)) as services:
        for prompt in ([3] * 4, [3] * 24, [3] * 40):
            alone = await services.complete(prompt, max_tokens=40)
            found = await services.complete(prompt, policy=policy("fixed"), max_tokens=40)
            assert found.token_ids == alone.token_ids
            assert found.finish.speculation.draft_failures == 0
            assert found.finish.speculation.verify_steps <= 20  # it is not asked on and on


async def test_chat_and_text_prompts_are_the_tokens_they_stand_for() -> None:
    template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"
    tokenizer = byte_tokenizer(129, template=template)
    async with trio(tiny_llama(1, vocabulary=129), None, tokenizer) as services:
        by_ids = await services.complete(ids("user:hi;"), max_tokens=5)
        chat = completion_pb2.Chat(messages=[completion_pb2.ChatMessage(role="user", content="hi")])
        for prompt in ({"text": "user:hi;"}, {"chat": chat}):
            request = completion_pb2.CompleteRequest(max_tokens=5, **prompt)
            answer = await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))
            assert answer.token_ids == by_ids.token_ids and answer.finish.usage.prompt_tokens == 8
