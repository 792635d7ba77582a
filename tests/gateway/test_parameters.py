"""Every parameter does what it says or is refused; none is ignored.

The walk over the models' fields fails for one that no case here covers, a new one among them. What changes a text is in
test_same_texts.py, beside the field of the gRPC request that it stands for.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.gateway.chat import ChatParameters
from orchestrator.gateway.parameters import Parameters
from orchestrator.gateway.text import TextParameters
from tests.gateway.serving import LOSSLESS, Gateway
from tests.gateway.test_same_texts import SAME
from tests.support.tokens import ids

Case = Callable[[Gateway], Awaitable[None]]
CASES: dict[str, Case] = {}
COVERED: set[str] = {name for http, _ in SAME.values() for name in http}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def covers(*paths: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES[getattr(case, "__name__", "")] = case
        COVERED.update(paths)
        return case

    return register


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def fields_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Paths of all fields; of one that holds objects, those of the objects as well."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        found.add(path)
        for inner in models_in(field.annotation):
            found |= fields_of(inner, f"{path}.")
    return found


def test_every_field_has_a_case() -> None:
    wanted = fields_of(ChatParameters) | fields_of(TextParameters)
    assert "tools.function.parameters" in wanted and "structured_outputs.json" in wanted  # the walk goes down
    covered = COVERED | {path.rsplit(".", depth)[0] for path in COVERED for depth in range(1, path.count(".") + 1)}
    assert wanted - covered == set()
    assert COVERED - wanted == set()
    assert fields_of(Parameters) <= wanted


async def test_it_does_what_it_says(case: str, served: Gateway) -> None:
    await CASES[case](served)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once all cases below are known."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", sorted(CASES))


async def prompt_of(served: Gateway, **body: Any) -> list[int]:
    """The prompt's tokens."""
    (choice,) = (await served.chat(max_tokens=1, return_token_ids=True, **body))["choices"]
    return choice["prompt_token_ids"]


async def refused(served: Gateway, path: str, param: str, code: str = "invalid_field", **body: Any) -> None:
    prompt = {"prompt": "Hi"} if path == TEXT else {"messages": [{"role": "user", "content": "Hi"}]}
    error = await served.error(path, {"model": "tiny", **prompt, **body})
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"].startswith(f"{param}: "), error


@covers("model", "speculation")
async def a_policy_is_named_beside_the_model_or_by_it(served: Gateway) -> None:
    for by_name, rules in {
        "off": ("off", "off", False), "lossless": ("goodput", "exact", False),
        "reproducible": ("goodput", "coupled", False), "adasd": ("adasd", "adasd", True),
        "adasd-kde": ("adasd", "adasd-kde", True),
    }.items():  # fmt: skip
        for body in ({"speculation": by_name}, {"model": f"tiny:{by_name}"}):
            told = (await served.text(max_tokens=4, **body))["metrics"]["speculation"]
            assert (told["stop_rule"], told["accept_rule"].replace("_", "-"), told["lossy"]) == rules
    unnamed = (await served.text(max_tokens=4))["metrics"]["speculation"]
    assert (unnamed["accept_rule"], unnamed["lossy"]) == ("exact", False)
    as_object = (await served.text(max_tokens=4, speculation=LOSSLESS))["metrics"]["speculation"]
    assert as_object["stop_rule"] == "fixed"
    budget = {"accept": {"adasd": {"lossy_budget": -1}}}
    await refused(served, TEXT, "speculation.accept.adasd.lossy_budget", speculation=budget)
    await refused(served, TEXT, "speculation.accept.exact.fast", speculation={"accept": {"exact": {"fast": 1}}})
    await refused(served, TEXT, "speculation", speculation="fast")
    await refused(served, TEXT, "speculation", model="tiny:off", speculation="off")


@covers("prompt", "echo")
async def an_echo_begins_the_text(served: Gateway) -> None:
    found = await served.text(["Hi", "Ho"], echo=True, max_tokens=4)
    assert [choice["text"][:2] for choice in found["choices"]] == ["Hi", "Ho"]
    await refused(served, TEXT, "logprobs", "not_supported", echo=True, logprobs=1)
    for prompt in ([], "", [[]], [1, -1], [1, "a"], ["a", 1], [[1], "a"], 5, {}, [300], [[1], [300]], ["x"] * 129):
        error = await served.error(TEXT, {"model": "tiny", "prompt": prompt})
        assert error["param"].startswith("prompt"), error


@covers("n", "max_tokens", "max_completion_tokens")
async def numbers_of_choices_and_tokens(served: Gateway) -> None:
    assert len((await served.text(n=3, max_tokens=2))["choices"]) == 3
    await refused(served, TEXT, "n", n=2, temperature=0)
    for n in (0, -1, 65, 10**30, 1.5, True, "2"):
        await refused(served, CHAT, "n", n=n)
    assert (await served.text(ignore_eos=True))["usage"]["completion_tokens"] == 16
    assert (await served.chat(max_completion_tokens=3))["usage"]["completion_tokens"] <= 3
    await refused(served, CHAT, "max_completion_tokens", max_completion_tokens=0)
    await refused(served, CHAT, "max_tokens", max_tokens=0)
    await refused(served, CHAT, "max_tokens", max_tokens=3, max_completion_tokens=3)


@covers("min_tokens", "stop", "stop_token_ids")
async def what_ends_a_text_is_checked_by_its_name(served: Gateway) -> None:
    await refused(served, TEXT, "min_tokens", min_tokens=9, max_tokens=3)
    await refused(served, TEXT, "stop[1]", stop=["a", ""])
    await refused(served, TEXT, "stop", stop="")
    await refused(served, TEXT, "stop", stop=["a"] * 17)
    await refused(served, TEXT, "stop_token_ids[1]", stop_token_ids=[1, 300])


@covers("temperature", "top_p", "top_k", "min_p", "presence_penalty", "logit_bias", "seed")
async def a_chain_out_of_range_is_refused_by_its_name(served: Gateway) -> None:
    for name, value in {
        "temperature": -1, "top_p": 0, "top_k": -2, "min_p": 2, "presence_penalty": 3, "frequency_penalty": -3,
        "repetition_penalty": 0, "seed": 2**64,
    }.items():  # fmt: skip
        await refused(served, CHAT, name, **{name: value})
    await refused(served, CHAT, "logit_bias.7", logit_bias={"7": 101})
    await refused(served, CHAT, "logit_bias.seven", logit_bias={"seven": 1})
    await refused(served, CHAT, "logit_bias", logit_bias={"257": 1})


@covers("stream", "stream_options.include_usage", "stream_options.include_obfuscation")
async def options_of_streams_are_for_streams(served: Gateway) -> None:
    answer = await served.post(TEXT, {"model": "tiny", "prompt": "x", "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    answer = await served.post(TEXT, {"model": "tiny", "prompt": "x", "stream": False})
    assert answer.headers["content-type"] == "application/json"
    padded = {"stream": True, "stream_options": {"include_obfuscation": True}}
    await refused(served, TEXT, "stream_options.include_obfuscation", **padded)
    await refused(served, TEXT, "stream_options", stream_options={"include_usage": True})


@covers("logprobs", "top_logprobs")
async def log_probabilities_are_asked_for_as_each_endpoint_has_it(served: Gateway) -> None:
    assert (await served.chat(max_tokens=2))["choices"][0]["logprobs"] is None
    found = (await served.chat(max_tokens=2, logprobs=True))["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in found] == [[], []]
    await refused(served, CHAT, "top_logprobs", top_logprobs=2)
    await refused(served, CHAT, "top_logprobs", logprobs=True, top_logprobs=21)
    await refused(served, CHAT, "logprobs", logprobs=3)
    await refused(served, TEXT, "logprobs", logprobs=21)
    await refused(served, TEXT, "logprobs", logprobs=True)


@covers(
    "response_format.type", "response_format.json_schema.name", "response_format.json_schema.schema",
    "response_format.json_schema.strict", "structured_outputs.json", "structured_outputs.regex",
    "structured_outputs.choice", "structured_outputs.grammar", "structured_outputs.json_object", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip
async def a_text_is_what_it_has_to_be(served: Gateway) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}
    named = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema, "strict": True}}
    for said in (
        {"response_format": named}, {"structured_outputs": {"json": schema}}, {"guided_json": schema},
        {"guided_json": json.dumps(schema)},
    ):  # fmt: skip
        for path in (served.text, served.chat):
            (choice,) = (await path(max_tokens=300, **said))["choices"]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            assert len([item for item in json.loads(text) if item in (1, 2)]) == 2
    exact = {
        "regex": "[ab]{3}", "choice": ["aab", "bba"], "grammar": 'start: ("a" | "b") ("a" | "b") ("a" | "b")',
    }  # fmt: skip
    for kind, value in exact.items():
        for said in ({"structured_outputs": {kind: value}}, {f"guided_{kind}": value}):
            (choice,) = (await served.text(**said))["choices"]
            assert len(choice["text"]) == 3 and set(choice["text"]) <= {"a", "b"}
            assert choice["finish_reason"] == "stop"
    for said in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        (choice,) = (await served.text(max_tokens=1, **said))["choices"]
        assert choice["text"] == "{"
    (choice,) = (await served.text(max_tokens=3, ignore_eos=True, response_format={"type": "text"}))["choices"]
    assert choice["finish_reason"] == "length"


@covers("response_format", "structured_outputs", "guided_choice")
async def what_a_text_cannot_be_is_refused_by_its_name(served: Gateway) -> None:
    async def as_schema(param: str, code: str = "invalid_field", **described: Any) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", **described}}
        await refused(served, CHAT, f"response_format.json_schema.{param}", code, response_format=form)

    await as_schema("schema", schema={"type": "object", "not": {}})
    await as_schema("schema")
    await as_schema("description", "not_supported", schema={}, description="A thing.")
    await refused(served, CHAT, "response_format.json_schema", response_format={"type": "json_schema"})
    await refused(served, CHAT, "response_format", response_format={"type": "xml"})
    await refused(served, CHAT, "structured_outputs.regex", structured_outputs={"regex": "("})
    await refused(served, CHAT, "structured_outputs", structured_outputs={})
    await refused(served, CHAT, "structured_outputs.choice[1]", structured_outputs={"choice": ["a", ""]})
    await refused(served, CHAT, "guided_choice", guided_choice=[])
    await refused(served, CHAT, "guided_regex", guided_regex="a", response_format={"type": "json_object"})
    await refused(served, CHAT, "guided_json", guided_json="{")
    await refused(served, CHAT, "min_tokens", guided_regex="a", min_tokens=2)
    await refused(served, CHAT, "ignore_eos", guided_regex="a", ignore_eos=True)


@covers("return_token_ids", "request_id")
async def what_is_told_where_it_is_asked_for(served: Gateway) -> None:
    plain, told = await served.text(), await served.text(return_token_ids=True, request_id="mine")
    assert "token_ids" not in plain["choices"][0] and plain["id"].startswith("cmpl-")
    assert told["id"] == "mine" and told["choices"][0]["prompt_token_ids"] == ids("Hi")
    assert len(told["choices"][0]["token_ids"]) == told["usage"]["completion_tokens"]
    await refused(served, TEXT, "request_id", request_id="é")
    await refused(served, TEXT, "request_id", request_id="x" * 129)


@covers("priority")
async def a_lower_priority_goes_first(served: Gateway) -> None:
    """vLLM's order; what it does in the engines is tested where they are."""
    ranks = []
    scheduler = served.services.target_engine._scheduler
    add = scheduler.add
    scheduler.add = lambda sequence: (ranks.append(sequence.rank[0]), add(sequence))[1]  # type: ignore[method-assign]
    for priority in (-7, None, 7):
        await served.text(max_tokens=1, priority=priority)
    assert ranks == sorted(ranks) == [-7, 0, 7]
    await refused(served, TEXT, "priority", priority=101)


@covers(
    "user", "safety_identifier", "prompt_cache_key", "metadata", "store", "service_tier", "best_of", "suffix",
    "modalities", "parallel_tool_calls",
)  # fmt: skip
async def what_asks_for_nothing_is_taken_and_what_asks_for_more_is_not(served: Gateway) -> None:
    taken = {
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}, "store": False,
        "service_tier": "auto", "suffix": None, "audio": None, "prediction": None,
    }  # fmt: skip
    await served.text(**taken, best_of=1)
    await served.text(suffix="")
    await served.chat(**taken, modalities=["text"], parallel_tool_calls=True)
    for name, value in {"store": True, "service_tier": "flex", "best_of": 2, "suffix": "x"}.items():
        await refused(served, TEXT, name, **{name: value})
    await refused(served, CHAT, "modalities[1]", modalities=["text", "audio"])
    for name, value in {
        "audio": {"voice": "x", "format": "wav"}, "prediction": {"type": "content", "content": "x"},
        "reasoning_effort": "low", "functions": [], "function_call": "none", "web_search_options": {}, "echo": True,
        "use_beam_search": True, "prompt_logprobs": 1, "temprature": 1,
    }.items():  # fmt: skip
        await refused(served, CHAT, name, "not_supported", **{name: value})


@covers(
    "messages.role", "messages.content.type", "messages.content.text", "messages.name", "messages.tool_call_id",
    "messages.tool_calls.id", "messages.tool_calls.type", "messages.tool_calls.function.name",
    "messages.tool_calls.function.arguments", "messages.refusal", "messages.audio", "messages.function_call",
    "chat_template_kwargs", "tools.type", "tools.function.name", "tools.function.description",
    "tools.function.parameters", "tools.function.strict", "tool_choice",
)  # fmt: skip
async def every_part_of_a_conversation_reaches_the_template(served: Gateway) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": [1]}'}}
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    messages = [
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": None},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
    ]
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    body = {"messages": messages, "tools": [{"type": "function", "function": function}]}
    mood = {"chat_template_kwargs": {"mood": "calm"}}
    talk = 'user:Hi\nthere[Ann];assistant:<c1 look {"at": [1]}>;tool:found(c1);'
    assert await prompt_of(served, **body, **mood, tool_choice="auto") == ids(f"{talk}{json.dumps(function)}calm")
    assert await prompt_of(served, **body, tool_choice="none") == ids(talk)


@covers("messages", "tools", "tool_choice", "chat_template_kwargs")
async def what_a_conversation_cannot_have_is_refused_by_its_name(served: Gateway) -> None:
    function = {"type": "function", "function": {"name": "look"}}

    async def with_message(param: str, code: str = "invalid_field", **message: Any) -> None:
        await refused(served, CHAT, param, code, messages=[{"role": "user", "content": "Hi"}, message])

    await refused(served, CHAT, "messages", messages=[])
    await refused(served, CHAT, "messages", messages="Hi")
    await with_message("messages[1].role", role="function", content="x")
    await with_message("messages[1].role", content="x")
    await with_message("messages[1].content", role="user", content="")
    await with_message("messages[1].content", role="user")
    await with_message("messages[1].content[0].type", role="user", content=[{"type": "image_url", "image_url": {}}])
    await with_message("messages[1].thoughts", "not_supported", role="assistant", content="x", thoughts="y")
    await with_message("messages[1].tool_call_id", role="user", content="x", tool_call_id="y")
    call = {"id": "c", "type": "function", "function": {"name": "", "arguments": "{}"}}
    await with_message("messages[1].tool_calls[0].function.name", role="assistant", tool_calls=[call])
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "["}}
    await with_message("messages[1].tool_calls[0].function.arguments", role="assistant", tool_calls=[call])
    await with_message("messages[1].function_call", role="assistant", function_call={"name": "f", "arguments": ""})
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        await refused(served, CHAT, "tool_choice", tools=[function], tool_choice=choice)
    await refused(served, CHAT, "tool_choice", tool_choice="auto")
    await refused(served, CHAT, "tools[0].function.name", tools=[{"type": "function", "function": {"name": ""}}])
    await refused(served, CHAT, "tools[0].function.strict",
                  tools=[{"type": "function", "function": {"name": "f", "strict": True}}])  # fmt: skip
    await refused(served, CHAT, "tools[0].type", tools=[{"type": "custom", "custom": {"name": "f"}}])
    await refused(served, CHAT, "messages", chat_template_kwargs={"nobody": 1})
    await refused(served, CHAT, "chat_template_kwargs", chat_template_kwargs={"messages": []})
