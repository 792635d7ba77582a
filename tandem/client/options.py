"""What a caller may ask for besides the prompt: the fields of CompleteRequest as keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from tandem.client.prompts import AnyTool, JsonObject
from tandem.v1 import policy_pb2

Speculation: TypeAlias = str | Mapping[str, Any] | policy_pb2.SpeculationPolicy
"""How to speculate: `off`, `lossless`, `reproducible`, the name of an accept rule (`block`, `adasd`), a mapping as
{"stop": "fixed", "accept": "jsd", "threshold": 0.3} (see tandem.policies), or the message itself."""


class Options(TypedDict, total=False):
    """None is as good as unset. Ranges and edge values: `protos/tandem/v1/`."""

    # How long.
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop: bool | None
    ignore_end_tokens: bool | None
    # How to draw. Temperature 0, which is the default, takes the likeliest token.
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    n: int | None
    # How to speculate.
    speculation: Speculation | None
    # What the text has to be; one of them at most. A schema may be given as text.
    json_schema: Mapping[str, Any] | bool | str | None
    json_object: bool | None
    regex: str | None
    lark: str | None
    choices: Sequence[str] | None
    # What to tell besides the text. log_probabilities: how many of the likeliest tokens to name; 0 for the token's own.
    log_probabilities: int | None
    audit: bool | None
    echo: bool | None
    return_prompt_token_ids: bool | None
    # For a conversation only.
    tools: Sequence[AnyTool] | None
    template_arguments: JsonObject | None
    # Tokens of this same completion, begun elsewhere and lost: only what comes after them is told. Its seed is needed.
    resume_token_ids: Sequence[int] | None
    # Whose turn it is, and the name under which logs speak of it.
    priority: int | None
    request_id: str | None


NAMES = frozenset(Options.__annotations__)
