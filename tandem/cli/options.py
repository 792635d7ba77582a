"""The flags that commands share, and the request that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from tandem.cli.errors import CliError
from tandem.policies import ACCEPT_RULES, STOP_RULES, policy_from_names
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_sampling
from tandem.v1 import completion_pb2, policy_pb2, sampling_pb2

_ANY_VOCABULARY = 2**32

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint", "--orchestrator", envvar="TANDEM_ENDPOINT", metavar="HOST:PORT",
        help="A running orchestrator. Without one, the three services are started here and stopped at the end.",
    ),
]
TargetModel = Annotated[
    str,
    typer.Option(
        help="Target of services started here: a Hugging Face id, a folder, a GGUF file or embedded:smollm2."
    ),
]
DraftModel = Annotated[
    str,
    typer.Option(
        help="Draft of services started here: as the target, embedded:smollm2-draft, prompt-lookup, or none."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hugging Face id.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights of services started here: bfloat16, float32, auto.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each model; all cores if unset.")]

StopRule = Annotated[str, typer.Option("--stop", metavar="RULE", help=f"Stop rule: {', '.join(STOP_RULES)}.")]
AcceptRule = Annotated[str, typer.Option("--accept", metavar="RULE", help=f"Accept rule: {', '.join(ACCEPT_RULES)}.")]
Policy = Annotated[str, typer.Option("--policy", metavar="on|off", help="off: no speculation, the target alone.")]
DraftTokens = Annotated[int | None, typer.Option(help="Most candidates of a block, 1 to 64.")]
Threshold = Annotated[float | None, typer.Option(help="Distance below which jsd accepts, 0 to 1.")]
Strict = Annotated[bool, typer.Option("--strict", help="adasd: the paper's literal rule.")]
LossyBudget = Annotated[float | None, typer.Option(help="Lossy rules: most total variation to charge; 0 is lossless.")]

MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to generate; 1024 if unset.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this mass, in (0, 1].")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens with this share of the likeliest's probability.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1 makes tokens seen so far less likely.")]
PresencePenalty = Annotated[float | None, typer.Option(help="Subtracted once for tokens generated so far.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="Subtracted for each time a token was generated.")]
LogitBias = Annotated[
    list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to a token's logit; -inf forbids. Repeatable.")
]
Seed = Annotated[int | None, typer.Option(help="Key of all random choices; drawn if unset.")]
StopText = Annotated[list[str] | None, typer.Option(help="Text that ends the completion. Repeatable.")]
StopToken = Annotated[list[int] | None, typer.Option(help="Token id that ends the completion. Repeatable.")]
IgnoreEnd = Annotated[bool, typer.Option("--ignore-end", help="Go on after the model's end of sequence.")]
Timeout = Annotated[float | None, typer.Option(min=0.001, help="Seconds that the completion may take.")]


@dataclass(slots=True)
class RequestOptions:
    """Everything but the prompt."""

    stop: str = "adasd"
    accept: str = "adasd"
    policy: str = "on"
    draft_tokens: int | None = None
    threshold: float | None = None
    strict: bool = False
    lossy_budget: float | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: list[str] = field(default_factory=list)
    seed: int | None = None
    stop_text: list[str] = field(default_factory=list)
    stop_token: list[int] = field(default_factory=list)
    ignore_end: bool = False
    audit: bool = False


def build_request(options: RequestOptions) -> completion_pb2.CompleteRequest:
    """A request without its prompt. Raises CliError for what no service would take, before one is started."""
    try:
        sampling = _sampling(options)
        request = completion_pb2.CompleteRequest(
            max_tokens=options.max_tokens,
            sampling=sampling,
            speculation=_policy(options),
            stop=options.stop_text,
            stop_token_ids=options.stop_token,
            ignore_end_tokens=options.ignore_end,
            audit=options.audit,
        )
        check_sampling(sampling, path="sampling", vocabulary_size=_ANY_VOCABULARY)
    except TandemError as error:
        raise CliError(error.message) from error
    except (ValueError, TypeError) as error:
        raise CliError(str(error)) from error
    if options.max_tokens is not None and options.max_tokens < 1:
        raise CliError(f"max_tokens: must be at least 1, not {options.max_tokens}")
    return request


def _policy(options: RequestOptions) -> policy_pb2.SpeculationPolicy:
    if options.policy == "off":
        return policy_pb2.SpeculationPolicy(off=True)
    if options.policy != "on":
        raise ValueError(f"unknown policy {options.policy!r}; there are on, off")
    return policy_from_names(
        options.stop,
        options.accept,
        max_tokens=options.draft_tokens,
        threshold=options.threshold,
        strict=options.strict or None,
        lossy_budget=options.lossy_budget,
    )


def _sampling(options: RequestOptions) -> sampling_pb2.SamplingParams:
    params = sampling_pb2.SamplingParams(temperature=options.temperature)
    for name in ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"):
        value = getattr(options, name)
        if value is None:
            continue
        try:
            setattr(params, name, value)
        except ValueError as error:
            raise ValueError(f"sampling.{name}: {error}") from error
    for entry in options.logit_bias:
        token, equals, bias = entry.partition("=")
        try:
            if not equals:
                raise ValueError
            params.logit_bias[int(token)] = float(bias)
        except ValueError:
            raise ValueError(f"sampling.logit_bias: {entry!r} is not ID=BIAS") from None
    return params
