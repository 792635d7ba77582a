"""From a prompt and options to a request. The service checks values; here it is checked that fields can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from tandem.client.errors import BadInputError
from tandem.client.options import NAMES
from tandem.client.prompts import Prompt, chat, json_text, token_ids
from tandem.policies import POLICIES, policy_from_names
from tandem.rpc.channels import MAX_MESSAGE_BYTES
from tandem.v1 import completion_pb2, grammar_pb2, policy_pb2, sampling_pb2

_SAMPLING = frozenset(sampling_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
_GRAMMARS = frozenset(grammar_pb2.Grammar.DESCRIPTOR.fields_by_name)
#: Policies that HTTP names too; any accept rule is a name as well.
_OF_CHATS = ("tools", "template_arguments")


def complete_request(prompt: Prompt, options: Mapping[str, Any]) -> completion_pb2.CompleteRequest:
    """Raises BadInputError, and TypeError for an option that there is not."""
    for name in options:
        if name not in NAMES:
            raise TypeError(f"complete() got an unexpected keyword argument {name!r}")
    given = {name: value for name, value in options.items() if value is not None}
    if not given.get("json_object"):
        given.pop("json_object", None)
    request = completion_pb2.CompleteRequest()
    _put_prompt(request, prompt, given)
    for name, value in given.items():
        if name in _SAMPLING:
            _put(request.sampling, name, value, "sampling.")
        elif name in _GRAMMARS:
            _put_grammar(request.grammar, name, value)
        elif name == "speculation":
            request.speculation.CopyFrom(_policy(value))
        elif name == "stop":
            _put(request, name, [value] if isinstance(value, str) else value)
        elif name == "resume_token_ids":
            request.resume.SetInParent()
            _put(request.resume, "ids", value, "resume.")
        elif name not in _OF_CHATS:
            _put(request, name, value)
    return _small_enough(request)


def tokenize_request(
    text: str | Sequence[Any], tools: Sequence[Any] | None, template_arguments: Any
) -> completion_pb2.TokenizeRequest:
    """Raises BadInputError."""
    request = completion_pb2.TokenizeRequest()
    options = {"tools": tools, "template_arguments": template_arguments}
    if not isinstance(text, str) and token_ids(text) is not None:
        raise BadInputError.invalid_field("input", "must be text or messages, not tokens")
    _put_prompt(request, text, {name: value for name, value in options.items() if value is not None})
    return _small_enough(request)


def detokenize_request(tokens: Sequence[int], skip_special_tokens: bool) -> completion_pb2.DetokenizeRequest:
    """Raises BadInputError."""
    request = completion_pb2.DetokenizeRequest(skip_special_tokens=skip_special_tokens)
    _put(request, "token_ids", tokens)
    return _small_enough(request)


def _put_prompt(request: Any, prompt: Any, given: Mapping[str, Any]) -> None:
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, str | Sequence):
        kind = type(prompt).__name__
        raise BadInputError.invalid_field("prompt", f"must be text, token ids or messages, not {kind}")
    ids = None if isinstance(prompt, str) else token_ids(prompt)
    if isinstance(prompt, str) or ids is not None:
        for name in _OF_CHATS:
            if name in given:
                raise BadInputError.invalid_field(f"chat.{name}", "is for a conversation, a list of messages")
    if isinstance(prompt, str):
        _put(request, "text", prompt)
    elif ids is not None:
        request.tokens.SetInParent()
        _put(request.tokens, "ids", ids, "tokens.")
    else:
        request.chat.CopyFrom(chat(prompt, given.get("tools"), given.get("template_arguments")))


def _put_grammar(grammar: grammar_pb2.Grammar, name: str, value: Any) -> None:
    other = grammar.WhichOneof("kind")
    if other is not None:
        raise BadInputError.invalid_field("grammar", f"{other} and {name} do not go together")
    if name == "json_schema":
        grammar.json_schema = json_text(value, "grammar.json_schema")
    elif name == "json_object":
        grammar.json_object.SetInParent()
    elif name == "choices":
        grammar.choices.SetInParent()
        _put(grammar.choices, "texts", value, "grammar.choices.")
    else:
        _put(grammar, name, value, "grammar.")


def _policy(value: Any) -> policy_pb2.SpeculationPolicy:
    if isinstance(value, policy_pb2.SpeculationPolicy):
        return value
    try:
        if isinstance(value, str):
            return POLICIES[value] if value in POLICIES else policy_from_names(accept=value)
        if not isinstance(value, Mapping):
            raise TypeError(f"must be a name, a mapping or a SpeculationPolicy, not {type(value).__name__}")
        return policy_from_names(**value)
    except (TypeError, ValueError) as error:
        raise BadInputError.invalid_field("speculation", str(error)) from error


def _put(message: Message, name: str, value: Any, path: str = "") -> None:
    """Sets a field. Raises BadInputError for what it cannot hold."""
    field = message.DESCRIPTOR.fields_by_name[name]
    try:
        if not field.is_repeated:
            setattr(message, name, value)
        elif field.message_type is not None:  # a map
            getattr(message, name).update(dict(value))
        elif isinstance(value, str):
            raise TypeError("a list is needed")
        else:
            getattr(message, name).extend(value)
    except (TypeError, ValueError) as error:
        raise BadInputError.invalid_field(f"{path}{name}", f"cannot be {_short(value)}: {error}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _small_enough(request: Any) -> Any:
    """gRPC would refuse a larger one in words that name no field."""
    size = request.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise BadInputError.invalid_field("prompt", f"makes a request of {size} bytes; at most {MAX_MESSAGE_BYTES}")
    return request
