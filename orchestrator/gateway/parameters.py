"""Parameters that both of OpenAI's endpoints take: its own and, by vLLM's names, those that Tandem has besides.

What is not listed is refused with its name, never ignored. A parameter that is null counts as not given. `user`,
`safety_identifier`, `metadata`, `prompt_cache_key`, `store: false` and `service_tier: auto` are taken though nothing is
done with them: they ask for nothing that could be left undone.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tandem.v1 import completion_pb2

#: Of protobuf's integers.
_MOST_INT32, _MOST_UINT32 = 2**31 - 1, 2**32 - 1

Int32 = Annotated[int, Field(ge=-_MOST_INT32, le=_MOST_INT32)]
TokenId = Annotated[int, Field(ge=0, le=_MOST_UINT32)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Strict(BaseModel):
    """An object as it has to be: no other fields, no other types, only finite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, populate_by_name=False)


class StreamOptions(Strict):
    """How to stream."""

    include_usage: bool | None = Field(None, description="A last chunk, without choices, has the usage.")
    include_obfuscation: Literal[False] | None = Field(None, description="Chunks are not padded.")


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Strict):
    """A JSON schema. strict: the text is always held to it, whatever this says."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Strict):
    """A JSON value that a schema describes."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(Strict):
    """What the text has to be, by vLLM's names; exactly one. grammar: in llguidance's variant of Lark's syntax."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Texts | None = None
    grammar: str | None = None
    json_object: Literal[True] | None = None


class Choice(Protocol):
    """One choice of an answer as an endpoint has it, without its index and its end."""

    def opening(self) -> dict[str, Any] | None:
        """The first chunk of a stream; None where it begins with its text."""

    def delta(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        """A later chunk."""

    def whole(self, response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        """An answer in one piece."""


class Parameters(Strict):
    """What both endpoints take, and what each says of itself."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    choice: ClassVar[type[Choice]]

    model: str = Field(description="The model, or MODEL:POLICY for one of the policies by name (see /v1/models).")
    temperature: float | None = Field(None, description="1 if unset; 0 takes the likeliest token.")
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MOST_INT32)] | None = Field(None, description="0 and -1 keep all.")
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Bias] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(
        None, description="Of each prompt's random choices. The answer tells it for each choice, drawn where unset."
    )
    max_tokens: Int32 | None = None
    min_tokens: Int32 | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Tokens beside the text, the prompt's as well.")
    request_id: str | None = Field(None, description="Name of the request in logs, and the answer's id.")
    priority: Annotated[int, Field(ge=-100, le=100)] | None = Field(
        None, description="As vLLM has it: the lower number goes first."
    )
    speculation: str | dict[str, Any] | None = Field(
        None, description="Name of a policy (off, lossless, reproducible, adasd, adasd-kde), or a SpeculationPolicy."
    )
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    def fill(self, request: completion_pb2.CompleteRequest) -> list[completion_pb2.CompleteRequest]:
        """`request` with what is the endpoint's own, once for each prompt. Raises HttpError."""
        raise NotImplementedError

    def name_of(self, field: str) -> str:
        """What the endpoint calls a field of CompleteRequest that is not in both; others as they are."""
        raise NotImplementedError
