"""Several completions of one prompt, minimum lengths, echoes: what a request may ask of its texts."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

ASCII = byte_tokenizer(129)
SAMPLED = {"temperature": 1.0, "seed": 11}


@pytest.fixture
async def services():
    models = tiny_llama(6, vocabulary=129), tiny_llama(6, vocabulary=129, noise=0.05)
    async with trio(*models, ASCII) as running:
        yield running


@pytest.mark.parametrize("rule", [None, "ratio", "block", "coupled", "adasd"])
async def test_choice_0_is_the_text_of_a_request_for_one(services: Trio, rule: str | None) -> None:
    each = OFF if rule is None else policy("fixed", rule)
    alone = await services.complete([3, 4], policy=each, max_tokens=30, sampling=SAMPLED)
    found = await services.complete([3, 4], policy=each, max_tokens=30, sampling=SAMPLED, n=4)
    texts = [tuple(found.token_ids), *(tuple(choice.token_ids) for choice in found.more_choices)]
    assert texts[0] == tuple(alone.token_ids)
    assert len(set(texts)) == 4
    assert all(choice.finish.seed == 11 for choice in (found, *found.more_choices))


async def test_all_choices_stream_side_by_side_and_each_ends_once(services: Trio) -> None:
    request = make_request([3, 4], speculation=policy("fixed"), max_tokens=40, sampling=SAMPLED, n=5)
    responses = [response async for response in services.stub.Complete(request)]
    once = await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))
    whole = [once, *once.more_choices]
    for choice in range(5):
        own = [response for response in responses if response.choice == choice]
        assert "".join(response.text for response in own) == whole[choice].text
        assert [token for response in own for token in response.token_ids] == list(whole[choice].token_ids)
        assert [response.HasField("finish") for response in own] == [False] * (len(own) - 1) + [True]
        assert own[-1].finish.usage.completion_tokens == 40
    first = [response.choice for response in responses[:10]]
    assert len(set(first)) > 1  # none waits for another's end
    assert len({response.request_id for response in responses}) == 1


async def test_leaving_a_stream_of_many_choices_frees_all_of_them(services: Trio) -> None:
    request = make_request([3, 4], speculation=policy("fixed"), max_tokens=400, sampling=SAMPLED, n=6)
    call = services.stub.Complete(request)
    seen = set()
    async for response in call:
        seen.add(response.choice)
        if len(seen) == 6:
            break
    assert services.target_engine.load().sequences == 6
    call.cancel()
    for _ in range(100):
        loads = services.target_engine.load(), services.draft_engine.load()
        if all(load.sequences == 0 and load.cache_bytes == 0 for load in loads):
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError(f"still open after a second: {loads}")


@pytest.mark.parametrize("each", [OFF, policy("fixed"), policy("adasd", "adasd")], ids=["off", "fixed", "adasd"])
async def test_no_end_comes_before_min_tokens_and_the_next_may_be_one(each: object) -> None:
    target, draft = tiny_llama(6, vocabulary=129), tiny_llama(6, vocabulary=129, noise=0.05)
    ends = tuple(range(2, 60))  # nearly every second token ends a text
    async with trio(dataclasses.replace(target, end_token_ids=ends), draft, ASCII) as services:
        for least in (0, 1, 7, 25):
            lengths = []
            for seed in range(8):
                found = await services.complete(
                    [3, 4], policy=each, max_tokens=60, min_tokens=least, sampling={"temperature": 1.0, "seed": seed}
                )
                text = list(found.token_ids)
                assert not set(ends) & set(text[:least]), text
                assert len(text) > least and set(text[-1:]) <= set(ends)
                lengths.append(len(text))
            assert min(lengths) <= least + 4


async def test_a_stop_text_is_not_looked_for_before_min_tokens(services: Trio) -> None:
    whole = (await services.complete([3, 4], max_tokens=40)).text
    stop = max(whole, key=whole.count)
    places = [place for place, character in enumerate(whole) if character == stop]
    for least in (0, places[0] + 1, places[-1]):
        expected = whole.index(stop, least)
        found = await services.complete(
            [3, 4], policy=policy("fixed"), max_tokens=40, min_tokens=least, stop=[stop]
        )
        assert found.text == whole[:expected] and found.finish.stop == stop


async def test_a_stop_text_can_be_part_of_the_text(services: Trio) -> None:
    whole = (await services.complete([3, 4], max_tokens=40)).text
    stop = whole[10:13]
    end = whole.index(stop) + len(stop)
    found = await services.complete([3, 4], policy=policy("fixed"), max_tokens=40, stop=[stop], include_stop=True)
    assert found.text == whole[:end]
    assert (found.finish.stop, found.finish.reason) == (stop, completion_pb2.FINISH_REASON_STOP)


async def test_echo_puts_the_prompt_before_every_choice(services: Trio) -> None:
    fields = {"max_tokens": 10, "sampling": SAMPLED, "n": 2}
    plain = await services.complete([51, 52, 0, 53], **fields)
    found = await services.complete([51, 52, 0, 53], echo=True, return_prompt_token_ids=True, **fields)
    prompt = ASCII.decode([51, 52, 0, 53], skip_special_tokens=False)
    assert "<end>" in prompt
    for one, other in zip((plain, *plain.more_choices), (found, *found.more_choices), strict=True):
        assert other.text == prompt + one.text and other.token_ids == one.token_ids
    assert list(found.prompt_token_ids) == [51, 52, 0, 53] and not plain.prompt_token_ids
    request = completion_pb2.CompleteRequest(text="Hi", echo=True, max_tokens=1, return_prompt_token_ids=True)
    assert (await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))).text[:2] == "Hi"
