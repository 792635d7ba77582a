"""Every field of a request is a keyword of the client, and what no field can hold is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from orchestrator.gateway.names import POLICIES
from tandem.client import BadInputError, Message, Tool, ToolCall
from tandem.client.options import NAMES
from tandem.client.requests import complete_request, detokenize_request, tokenize_request
from tandem.policies import policy_from_names
from tandem.v1.completion_pb2 import CompleteRequest

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
CONVERSATION = [{"role": "user", "content": "Hi"}]

#: A value of each keyword, the field that it sets and what the field is then.
KEYWORDS: dict[str, tuple[Any, str, Any]] = {
    "max_tokens": (7, "max_tokens", 7),
    "min_tokens": (3, "min_tokens", 3),
    "stop": (["a", "b"], "stop", ["a", "b"]),
    "stop_token_ids": ((1, 2), "stop_token_ids", [1, 2]),
    "include_stop": (True, "include_stop", True),
    "ignore_end_tokens": (True, "ignore_end_tokens", True),
    "temperature": (0.5, "sampling.temperature", 0.5),
    "top_k": (4, "sampling.top_k", 4),
    "top_p": (0.25, "sampling.top_p", 0.25),
    "min_p": (0.125, "sampling.min_p", 0.125),
    "repetition_penalty": (1.5, "sampling.repetition_penalty", 1.5),
    "presence_penalty": (-1, "sampling.presence_penalty", -1.0),
    "frequency_penalty": (1.0, "sampling.frequency_penalty", 1.0),
    "logit_bias": ({3: 2}, "sampling.logit_bias", {3: 2.0}),
    "seed": (2**64 - 1, "sampling.seed", 2**64 - 1),
    "n": (2, "n", 2),
    "speculation": ("coupled", "speculation", policy_from_names("adasd", "coupled")),
    "json_schema": (SCHEMA, "grammar.json_schema", '{"type": "object", "properties": '
                    '{"b": {"type": "integer"}, "a": {"type": "string"}}}'),
    "json_object": (True, "grammar.json_object", None),
    "regex": ("a+", "grammar.regex", "a+"),
    "lark": ('start: "a"', "grammar.lark", 'start: "a"'),
    "choices": (["yes", "no"], "grammar.choices.texts", ["yes", "no"]),
    "log_probabilities": (0, "log_probabilities", 0),
    "audit": (True, "audit", True),
    "echo": (True, "echo", True),
    "return_prompt_token_ids": (True, "return_prompt_token_ids", True),
    "tools": ([Tool("f")], "chat.tools", None),
    "template_arguments": ({"mood": "merry"}, "chat.template_arguments_json", '{"mood": "merry"}'),
    "resume_token_ids": ((5, 6), "resume.ids", [5, 6]),
    "priority": (-5, "priority", -5),
    "request_id": ("mine", "request_id", "mine"),
}  # fmt: skip
#: Fields that the prompt sets.
OF_PROMPTS = {"text", "tokens.ids", "chat.messages"}


def fields_of(message: Descriptor, prefix: str = "") -> set[str]:
    """Paths of what a caller sets by one value: policies are one, and so are messages and tools."""
    found: set[str] = set()
    for field in message.fields:
        inner, path = field.message_type, f"{prefix}{field.name}"
        whole = inner is None or field.is_repeated or not inner.fields or field.name == "speculation"
        found |= {path} if whole else fields_of(inner, f"{path}.")
    return found


def at(message: Any, path: str) -> Any:
    for name in path.split("."):
        assert not message.DESCRIPTOR.fields_by_name[name].has_presence or message.HasField(name), path
        message = getattr(message, name)
    return message


def test_every_field_of_a_request_is_a_keyword_and_every_keyword_a_field() -> None:
    assert set(KEYWORDS) == NAMES
    paths = [path for _, path, _ in KEYWORDS.values()]
    assert {*paths, *OF_PROMPTS} == fields_of(CompleteRequest.DESCRIPTOR)
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_keyword_sets_its_field_and_no_other_and_none_sets_nothing(name: str) -> None:
    value, path, expected = KEYWORDS[name]
    prompt: Any = CONVERSATION if path.startswith("chat.") else "Hi"
    bare = complete_request(prompt, {})
    found = complete_request(prompt, {name: value})
    if isinstance(expected, list | dict):
        assert type(expected)(at(found, path)) == expected
    elif expected is not None:
        assert at(found, path) == expected
    else:
        assert found != bare
    top = path.split(".")[0]
    found.ClearField(top)
    bare.ClearField(top)
    assert found == bare
    assert complete_request("Hi", {name: None}) == complete_request("Hi", {})


def test_a_prompt_is_text_tokens_or_a_conversation() -> None:
    assert complete_request("Hi", {}).text == "Hi"
    assert list(complete_request((3, 4), {}).tokens.ids) == [3, 4]
    assert complete_request([], {}).WhichOneof("prompt") == "tokens"  # which the service refuses by name
    assert complete_request(CONVERSATION, {}) == complete_request([Message("user", "Hi")], {})
    assert complete_request("", {}).WhichOneof("prompt") == "text"


def test_a_conversation_may_be_written_as_openai_has_it() -> None:
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}}
    ours = complete_request(
        [
            Message("user", "Weather?", name="Ann"),
            Message("assistant", tool_calls=[ToolCall("weather", {"place": "Rome"}, id="c1")]),
            Message("tool", "fine", tool_call_id="c1"),
        ],
        {"tools": [Tool("weather", "Tells it", parameters)]},
    )
    theirs = complete_request(
        [
            {"role": "user", "content": "Weather?", "name": "Ann"},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"place": "Rome"}'},
                    }
                ],
            },
            {"role": "tool", "content": "fine", "tool_call_id": "c1"},
        ],
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "weather", "description": "Tells it", "parameters": parameters},
                }
            ]
        },
    )
    assert ours == theirs and len(ours.chat.messages) == 3


def test_a_policy_is_a_name_a_mapping_or_a_message() -> None:
    def policy(value: Any) -> Any:
        return complete_request("Hi", {"speculation": value}).speculation

    assert policy("off").off
    assert policy("block") == policy_from_names("adasd", "block")
    named = {"stop": "fixed", "accept": "jsd", "threshold": 0.25, "max_tokens": 3}
    assert policy(named) == policy_from_names(**named) == policy(policy_from_names(**named))


def test_the_names_of_policies_are_those_of_http() -> None:
    for name, policy in POLICIES.items():
        assert complete_request("Hi", {"speculation": name}).speculation == policy


def test_one_stop_text_need_not_be_a_list() -> None:
    assert list(complete_request("Hi", {"stop": "end"}).stop) == ["end"]


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        (b"bytes", {}, "prompt"),
        (7, {}, "prompt"),
        ({"role": "user"}, {}, "prompt"),
        ([-1], {}, "tokens.ids"),
        ([1, "a"], {}, "chat.messages[0]"),
        ("\ud800", {}, "text"),
        ([{"role": "user", "content": "x", "colour": "red"}], {}, "chat.messages[0].colour"),
        ([{"role": "user", "content": ["x"]}], {}, "chat.messages[0].content"),
        ([{"role": "assistant", "tool_calls": [{"type": "magic", "function": {}}]}], {},
         "chat.messages[0].tool_calls[0].type"),
        (CONVERSATION, {"tools": [{"function": {"name": "f", "strict": True}}]}, "chat.tools[0].strict"),
        (CONVERSATION, {"tools": [Tool("f", parameters={"a": {1}})]}, "chat.tools[0].parameters_json"),
        ("x", {"tools": [Tool("f")]}, "chat.tools"),
        ([1], {"template_arguments": {}}, "chat.template_arguments"),
        ("x", {"max_tokens": 2**31}, "max_tokens"),
        ("x", {"max_tokens": "many"}, "max_tokens"),
        ("x", {"seed": -1}, "sampling.seed"),
        ("x", {"temperature": "hot"}, "sampling.temperature"),
        ("x", {"logit_bias": [1, 2]}, "sampling.logit_bias"),
        ("x", {"logit_bias": {"7": 1.0}}, "sampling.logit_bias"),
        ("x", {"stop": ["\ud800"]}, "stop"),
        ("x", {"stop_token_ids": "12"}, "stop_token_ids"),
        ("x", {"choices": "yes"}, "grammar.choices.texts"),
        ("x", {"json_schema": {"a": {1}}}, "grammar.json_schema"),
        ("x", {"regex": "a", "json_object": True}, "grammar"),
        ("x", {"speculation": "always"}, "speculation"),
        ("x", {"speculation": {"stop": "fixed", "gamma": 1.0}}, "speculation"),
        ("x", {"speculation": 5}, "speculation"),
        ("x" * (64 * 1024 * 1024), {}, "prompt"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_no_request_can_hold_is_refused_by_name(prompt: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInputError) as refused:
        complete_request(prompt, options)
    assert refused.value.field == field and field in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_keyword_that_there_is_not_is_a_type_error_as_in_any_call() -> None:
    with pytest.raises(TypeError, match="temprature"):
        complete_request("Hi", {"temprature": 1.0})


def test_what_is_tokenised_is_text_or_a_conversation() -> None:
    assert tokenize_request("", None, None).WhichOneof("input") == "text"
    assert tokenize_request(CONVERSATION, [Tool("f")], {"mood": "x"}).chat.tools[0].name == "f"
    for wrong in ([1, 2], [], 7):
        with pytest.raises(BadInputError):
            tokenize_request(wrong, None, None)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="token_ids"):
        detokenize_request([-1], False)
