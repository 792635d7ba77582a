"""The official Python client, as it comes, against the real services."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.gateway.serving import LOSSLESS, Gateway

MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


async def test_models_and_their_policies_are_listed(served: Gateway) -> None:
    found = {model.id: model async for model in served.client.models.list()}
    policies = ("off", "lossless", "reproducible", "adasd", "adasd-kde")
    assert list(found) == ["tiny", *(f"tiny:{name}" for name in policies)]
    model = await served.client.models.retrieve("tiny:off")
    assert model == found["tiny:off"] and model.object == "model" and model.owned_by == "tandem"
    with pytest.raises(openai.NotFoundError) as caught:
        await served.client.models.retrieve("tiny:fast")
    assert caught.value.code == "model_not_found"


async def test_an_answer_has_all_that_the_client_reads(served: Gateway) -> None:
    found = await served.client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=12, temperature=0, extra_body={"speculation": LOSSLESS}
    )
    assert isinstance(found, ChatCompletion) and found.object == "chat.completion" and found.model == "tiny"
    assert found.id.startswith("chatcmpl-") and found._request_id == found.id
    (choice,) = found.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    usage = found.usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len("user:Hi;"), 12, 20)
    accepted = usage.completion_tokens_details.accepted_prediction_tokens
    rejected = usage.completion_tokens_details.rejected_prediction_tokens
    assert accepted and rejected is not None and accepted < 12
    assert found.system_fingerprint is not None and found.system_fingerprint.startswith("fp_")
    assert found.model_extra is not None
    told = found.model_extra["metrics"]["speculative_decoding"]
    assert told["num_draft_tokens"] == accepted + rejected and told["num_accepted_draft_tokens"] >= accepted
    steps, histogram = told["num_spec_steps"], told["acceptance_histogram"]
    assert sum(histogram) == steps and len(histogram) == told["num_spec_tokens"] + 1 <= 4
    assert sum(count * number for number, count in enumerate(histogram)) == told["num_accepted_draft_tokens"]
    assert told["mean_acceptance_length"] == pytest.approx(1 + told["num_accepted_draft_tokens"] / steps)
    assert told["draft_acceptance_rate"] == pytest.approx(told["num_accepted_draft_tokens"] / told["num_draft_tokens"])


async def test_a_stream_is_the_answer_in_pieces(served: Gateway) -> None:
    policy = {"stop": {"fixed": {}, "max_tokens": 3}, "accept": {"coupled": {}}}
    options: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 30, "seed": 3, "n": 2}
    options["extra_body"] = {"speculation": policy}
    whole = await served.client.chat.completions.create(**options)
    stream = await served.client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    *pieces, last = chunks
    assert last.choices == [] and last.usage == whole.usage and all(piece.usage is None for piece in pieces)
    assert last.model_extra is not None and whole.model_extra is not None
    assert last.model_extra["metrics"]["speculation"]["accept_rule"] == "coupled"
    for index, choice in enumerate(whole.choices):
        mine = [piece.choices[0] for piece in pieces if piece.choices[0].index == index]
        assert mine[0].delta.role == "assistant" and not mine[0].delta.content
        assert "".join(piece.delta.content or "" for piece in mine) == choice.message.content
        assert [piece.finish_reason for piece in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
    assert whole.choices[0].message.content != whole.choices[1].message.content


async def test_without_usage_the_last_chunk_has_the_metrics(served: Gateway) -> None:
    stream = await served.client.completions.create(model="tiny", prompt="Hi", stream=True, n=2, max_tokens=8)
    chunks = [chunk async for chunk in stream]
    told = [bool(chunk.model_extra and "metrics" in chunk.model_extra) for chunk in chunks]
    assert told == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.usage is None for chunk in chunks)


async def test_several_prompts_with_n_are_choices_in_their_order(served: Gateway) -> None:
    prompts = ["Hi", "Ho", "Hi"]
    found = await served.client.completions.create(model="tiny", prompt=prompts, n=2, seed=4, max_tokens=10)
    assert [choice.index for choice in found.choices] == list(range(6))
    alone = [
        [choice.text for choice in (await served.client.completions.create(
            model="tiny", prompt=prompt, n=2, seed=4, max_tokens=10
        )).choices]
        for prompt in prompts
    ]  # fmt: skip
    assert [choice.text for choice in found.choices] == sum(alone, [])
    assert alone[0] == alone[2] != alone[1] and alone[0][0] != alone[0][1]
    assert found.usage is not None and found.usage.prompt_tokens == 6 and found.usage.completion_tokens == 60
    by_tokens = await served.client.completions.create(
        model="tiny", prompt=[[ord(letter) + 1 for letter in prompt] for prompt in prompts], n=2, seed=4, max_tokens=10
    )
    assert [choice.text for choice in by_tokens.choices] == sum(alone, [])
    stream = await served.client.completions.create(
        model="tiny", prompt=prompts, n=2, seed=4, max_tokens=10, stream=True
    )
    texts = [""] * 6
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == sum(alone, [])


async def test_one_bad_prompt_of_several_is_told_before_the_stream_begins(served: Gateway) -> None:
    for last in ([[3], [9999]], [[3]] * 30 + [[]]):
        error = await served.error("/v1/completions", {"model": "tiny", "prompt": last, "stream": True})
        assert error["param"].startswith("prompt"), error


async def test_prompts_without_a_seed_have_one_each(served: Gateway) -> None:
    found = await served.text(["Hi"] * 4, max_tokens=30)
    assert len({choice["seed"] for choice in found["choices"]}) == 4
    assert len({choice["text"] for choice in found["choices"]}) == 4


async def test_the_synchronous_client_works_as_well(served: Gateway) -> None:
    def ask() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            whole = client.completions.create(model="tiny", prompt="Hi", max_tokens=20, seed=1)
            with client.completions.create(model="tiny", prompt="Hi", max_tokens=20, seed=1, stream=True) as stream:
                return whole.choices[0].text, "".join(chunk.choices[0].text for chunk in stream)

    whole, pieces = await asyncio.to_thread(ask)
    assert whole == pieces and whole


class Person(BaseModel):
    name: str
    age: int


async def test_a_class_that_the_client_parses_into(served: Gateway) -> None:
    limits = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}}}
    for seed in range(3):
        found = await served.client.chat.completions.parse(
            model="tiny", messages=MESSAGES, max_tokens=400, seed=seed, response_format=Person,
            logit_bias={str(ord('"') + 1): 8},
        )  # fmt: skip
        parsed = found.choices[0].message.parsed
        assert isinstance(parsed, Person)
        assert json.loads(found.choices[0].message.content or "") == parsed.model_dump()
    with pytest.raises(openai.BadRequestError) as caught:
        await served.client.chat.completions.create(
            model="tiny", messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {**limits, "not": {}}}},
        )  # fmt: skip
    assert caught.value.param == "response_format.json_schema.schema"


async def test_callers_side_by_side_do_not_meet(served: Gateway) -> None:
    async def ask(number: int) -> str:
        found = await served.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": f"{number % 4}"}], seed=number % 4, max_tokens=20
        )
        return found.choices[0].message.content or ""

    alone = [await ask(number) for number in range(4)]
    together = await asyncio.gather(*(ask(number) for number in range(24)))
    assert together == alone * 6 and len(set(alone)) == 4


async def test_errors_are_those_of_the_client(served: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await served.client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=-1)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature", "invalid_field", "invalid_request_error",
    )  # fmt: skip
    with pytest.raises(openai.NotFoundError) as missing:
        await served.client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as long:
        await served.client.completions.create(model="tiny", prompt="x" * 600)
    assert (long.value.param, long.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as streamed:
        await served.client.completions.create(model="tiny", prompt="x", stream=True, top_p=3)
    assert streamed.value.param == "top_p"
