"""From the parameters that both of OpenAI's endpoints take to a CompleteRequest, and back for the names in errors."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.gateway.errors import HttpError
from orchestrator.gateway.messages import to_message
from orchestrator.gateway.names import named
from orchestrator.gateway.parameters import JsonObjectFormat, JsonSchemaFormat, Parameters
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, grammar_pb2, policy_pb2, sampling_pb2

# Fields that have the same name and meaning here and in SamplingParams.
_SAME = (
    "temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
)  # fmt: skip
#: Fields of CompleteRequest that are called something else here.
_NAMES: Mapping[str, str] = MappingProxyType(
    {"ignore_end_tokens": "ignore_eos", "include_stop": "include_stop_str_in_output"}
)
_DEFAULT_TEMPERATURE = 1.0
#: Bits of a seed that is drawn: as many as any JSON reader keeps, so that it can be sent again.
_SEED_BITS = 53


def make_request(parameters: Parameters, policy: str | None) -> completion_pb2.CompleteRequest:
    """All but the prompt and what only one of the endpoints has. policy: by the model's name. Raises HttpError."""
    if parameters.stream_options is not None and not parameters.stream:
        raise HttpError.invalid("stream_options", "is for stream: true")
    return completion_pb2.CompleteRequest(
        max_tokens=parameters.max_tokens,
        min_tokens=parameters.min_tokens or 0,
        n=parameters.n,
        sampling=_sampling(parameters),
        speculation=_policy(parameters, policy),
        stop=[parameters.stop] if isinstance(parameters.stop, str) else parameters.stop,
        stop_token_ids=parameters.stop_token_ids,
        ignore_end_tokens=bool(parameters.ignore_eos),
        include_stop=bool(parameters.include_stop_str_in_output),
        grammar=_grammar(parameters)[1],
        return_prompt_token_ids=bool(parameters.return_token_ids),
        priority=-(parameters.priority or 0),
    )


def seeds(parameters: Parameters, prompts: int) -> list[int]:
    """What the answer tells of each prompt's seed: as it was given, or drawn."""
    if parameters.seed is not None:
        return [parameters.seed] * prompts
    return [secrets.randbits(_SEED_BITS) for _ in range(prompts)]


def _sampling(parameters: Parameters) -> sampling_pb2.SamplingParams:
    found = sampling_pb2.SamplingParams(**{name: getattr(parameters, name) for name in _SAME})
    if parameters.temperature is None:
        found.temperature = _DEFAULT_TEMPERATURE
    if parameters.top_k is not None:
        found.top_k = max(0, parameters.top_k)
    for token, bias in (parameters.logit_bias or {}).items():
        found.logit_bias[int(token)] = bias
    return found


def _policy(parameters: Parameters, by_model: str | None) -> policy_pb2.SpeculationPolicy:
    said = parameters.speculation
    if said is None:
        return named(by_model or ("lossless" if parameters.seed is None else "reproducible"), "model")
    if by_model is not None:
        raise HttpError.invalid("speculation", f"the model's name already says {by_model!r}")
    if isinstance(said, str):
        return named(said, "speculation")
    return to_message(said, policy_pb2.SpeculationPolicy, "speculation")


def _grammar(parameters: Parameters) -> tuple[str, grammar_pb2.Grammar | None]:
    """What the text has to be, and the parameter that says so. Raises HttpError where more than one does."""
    said: dict[str, tuple[str, Any]] = {}
    form = parameters.response_format
    if isinstance(form, JsonObjectFormat):
        said["response_format"] = "json_object", True
    elif isinstance(form, JsonSchemaFormat):
        said["response_format.json_schema.schema"] = "json", form.json_schema.schema_
    outputs = parameters.structured_outputs
    if outputs is not None:
        given = {name: getattr(outputs, name) for name in type(outputs).model_fields}
        for name, value in given.items():
            if value is not None:
                said[f"structured_outputs.{name.rstrip('_')}"] = name.rstrip("_"), value
        if not any(value is not None for value in given.values()):
            raise HttpError.invalid("structured_outputs", "says nothing of what the text has to be")
    for name in ("json", "regex", "choice", "grammar"):
        if (value := getattr(parameters, f"guided_{name}")) is not None:
            said[f"guided_{name}"] = name, value
    if len(said) > 1:
        one, other, *_ = said
        raise HttpError.invalid(other, f"does not go with {one}: a text can be held to one of them")
    for where, (kind, value) in said.items():
        return where, _as_message(where, kind, value)
    return "", None


def _as_message(where: str, kind: str, value: Any) -> grammar_pb2.Grammar:
    match kind:
        case "json":
            return grammar_pb2.Grammar(json_schema=value if isinstance(value, str) else to_json_text(value, where))
        case "json_object":
            return grammar_pb2.Grammar(json_object=grammar_pb2.JsonObject())
        case "regex":
            return grammar_pb2.Grammar(regex=value)
        case "choice":
            return grammar_pb2.Grammar(choices=grammar_pb2.GrammarChoices(texts=value))
    return grammar_pb2.Grammar(lark=value)


def to_json_text(value: dict[str, Any] | None, where: str) -> str:
    """Empty for None. Raises HttpError for what JSON cannot hold."""
    if value is None:
        return ""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError as error:  # a number that reads as infinite
        raise HttpError.invalid(where, str(error)) from error


def in_their_words(error: TandemError, parameters: Parameters) -> HttpError:
    """An error of the completion, with the parameter that the caller knows in place of the field."""
    told = HttpError.of(error)
    if error.reason == "PROMPT_TOO_LONG":
        told.code = "context_length_exceeded"  # OpenAI's word, which clients look for
    if error.field is None:
        return told
    told.param = _name_of(error.field, parameters)
    if told.message.startswith(f"{error.field}: "):
        told.message = told.param + told.message.removeprefix(error.field)
    return told


def _name_of(field: str, parameters: Parameters) -> str:
    if field.startswith("grammar"):
        where, _ = _grammar(parameters)
        return where + field.removeprefix("grammar.choices.texts") if "[" in field else where
    if field.startswith("stop[") and isinstance(parameters.stop, str):
        return "stop"
    name = parameters.name_of(field.removeprefix("sampling."))
    return _NAMES.get(name, name)
