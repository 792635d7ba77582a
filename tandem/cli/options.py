"""The flags that commands share, and the request that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from tandem.cli.errors import NOT_UTF8, CliError
from tandem.cli.grammars import grammar_of
from tandem.drafters import DRAFTERS
from tandem.policies import ACCEPT_RULES, NAMED, STOP_RULES, policy_from_names
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_sampling
from tandem.v1 import completion_pb2, policy_pb2, sampling_pb2

_ANY_VOCABULARY = 2**32

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint", "--orchestrator", envvar="TANDEM_ENDPOINT", metavar="HOST:PORT",
        help="A running orchestrator, or several with commas between: where one is lost, the next goes on. Without one,"
        " the three services are started here and stopped at the end.",
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
Drafter = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[+NAME]",
        help=f"What drafts in services started here: {', '.join(DRAFTERS)}; each is asked where those before it have"
        " nothing to say. What --draft-model says if unset.",
    ),
]
MiddleModel = Annotated[
    str | None,
    typer.Option(help="Model between draft and target: verifies the one, drafts for the other (HSD); none if unset."),
]
VerifyBudget = Annotated[
    str,
    typer.Option(
        metavar="COUNT|auto",
        help="Candidates that a step of the target verifies, over all callers; 0 for all, auto: what they are worth.",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hugging Face id.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights of services started here: bfloat16, float32, auto.")]
Weights = Annotated[
    str,
    typer.Option(
        help="Linear layers of services started here: full, or quantised: int8, int4 (CPU); auto: as a draft's own"
        " folder says, otherwise full."
    ),
]
DraftWeights = Annotated[str | None, typer.Option(help="The draft's linear layers; those of --weights if unset.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each model; all cores if unset.")]

_ANY = f"{NAMED}NAME is any that the orchestrator has"
StopRule = Annotated[str, typer.Option("--stop", metavar="RULE", help=f"Stop rule: {', '.join(STOP_RULES)}; {_ANY}.")]
AcceptRule = Annotated[
    str, typer.Option("--accept", metavar="RULE", help=f"Accept rule: {', '.join(ACCEPT_RULES)}; {_ANY}.")
]
Policy = Annotated[str, typer.Option("--policy", metavar="on|off", help="off: no speculation, the target alone.")]
DraftTokens = Annotated[
    int | None, typer.Option(min=1, max=64, help="Most candidates of a block; the rule's own if unset.")
]
Threshold = Annotated[float | None, typer.Option(help="jsd, which needs it: distance below which it accepts, 0 to 1.")]
Strict = Annotated[bool, typer.Option("--strict", help="adasd: the paper's literal rule.")]
RuleOption = Annotated[
    list[str] | None,
    typer.Option("--rule-option", metavar="NAME=NUMBER", help="Any option of the two rules, by its field. Repeatable."),
]
TreeNodes = Annotated[
    int | None, typer.Option(min=1, max=64, help="Blocks are trees of so many candidates; no trees if unset.")
]
TreeWidth = Annotated[
    int | None,
    typer.Option(
        min=1, max=8,
        help="Blocks are trees with at most so many candidates for a place, 4 if unset; as large as pays where"
        " --tree-nodes is unset, with --stop goodput.",
    ),
]
LossyBudget = Annotated[float | None, typer.Option(help="Lossy rules: most total variation; no limit if unset.")]

MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to generate; 1024 if unset.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Keep the k likeliest tokens; all if unset.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this mass, in (0, 1]; all if unset.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens with this share of the likeliest's; all if unset.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1 makes tokens seen less likely; 1 if unset.")]
PresencePenalty = Annotated[float | None, typer.Option(help="Subtracted once for tokens generated; 0 if unset.")]
FrequencyPenalty = Annotated[float | None, typer.Option(help="Subtracted for each time generated; 0 if unset.")]
LogitBias = Annotated[
    list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to a token's logit; -inf forbids. Repeatable.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="Key of all random choices; drawn if unset.")]
StopText = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Text that ends it. Repeatable.")]
StopToken = Annotated[list[int] | None, typer.Option(metavar="ID", help="Token id that ends it. Repeatable.")]
IgnoreEnd = Annotated[bool, typer.Option("--ignore-end", help="Go on after the model's end of sequence.")]
IncludeStop = Annotated[bool, typer.Option("--include-stop", help="Keep the stop text that ended it.")]
MinTokens = Annotated[int | None, typer.Option(min=0, help="Tokens before which nothing ends it; 0 if unset.")]
Count = Annotated[
    int | None, typer.Option("--n", min=1, max=64, help="Completions of the prompt, one below the other; 1 if unset.")
]
LogProbabilities = Annotated[
    int | None,
    typer.Option(
        min=0, max=20, metavar="K",
        help="List the log-probability of every token, and the K likeliest in its place; no list if unset.",
    ),
]
Echo = Annotated[bool, typer.Option("--echo", help="Show the prompt, as the model got it, before the text.")]
Priority = Annotated[
    int | None, typer.Option(min=-100, max=100, help="The larger goes first where not all can run; 0 if unset.")
]
JsonSchema = Annotated[
    str | None, typer.Option(metavar="FILE|JSON", help="JSON schema that the text follows; any text if unset.")
]
Regex = Annotated[str | None, typer.Option(help="Regular expression that the text matches; any text if unset.")]
Choice = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="The text is one of these. Repeatable.")]
Timeout = Annotated[float | None, typer.Option(min=0.001, metavar="SECONDS", help="Most time; no limit if unset.")]


@dataclass(slots=True)
class RequestOptions:
    """Everything but the prompt."""

    stop: str = "adasd"
    accept: str = "adasd"
    policy: str = "on"
    draft_tokens: int | None = None
    tree_nodes: int | None = None
    tree_width: int | None = None
    threshold: float | None = None
    strict: bool = False
    lossy_budget: float | None = None
    rule_option: list[str] = field(default_factory=list)
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
    include_stop: bool = False
    min_tokens: int | None = None
    n: int | None = None
    log_probabilities: int | None = None
    echo: bool = False
    priority: int | None = None
    json_schema: str | None = None
    regex: str | None = None
    choice: list[str] = field(default_factory=list)
    audit: bool = False


def build_request(options: RequestOptions) -> completion_pb2.CompleteRequest:
    """A request without its prompt. Raises CliError for what no service would take, before one is started."""
    try:
        request = completion_pb2.CompleteRequest(
            sampling=_sampling(options),
            speculation=_policy(options),
            ignore_end_tokens=options.ignore_end,
            include_stop=options.include_stop,
            echo=options.echo,
            audit=options.audit,
            grammar=grammar_of(options.json_schema, options.regex, options.choice),
        )
        for name in ("max_tokens", "stop_text", "stop_token", "min_tokens", "n", "log_probabilities", "priority"):
            _set(request, name, getattr(options, name))
        check_sampling(request.sampling, path="sampling", vocabulary_size=_ANY_VOCABULARY)
    except TandemError as error:
        raise CliError(error.message) from error
    except ValueError as error:
        raise CliError(str(error)) from error
    if options.max_tokens is not None and options.max_tokens < 1:
        raise CliError(f"max_tokens: must be at least 1, not {options.max_tokens}")
    if (options.n or 1) > 1 and options.temperature == 0:
        raise CliError("n: must be 1 at temperature 0, where all would be the same; set --temperature")
    return request


def _policy(options: RequestOptions) -> policy_pb2.SpeculationPolicy:
    if options.policy == "off":
        return policy_pb2.SpeculationPolicy(off=True)
    if options.policy != "on":
        raise ValueError(f"unknown policy {options.policy!r}; there are on, off")
    given: dict[str, float | None] = {
        "max_tokens": options.draft_tokens,
        "tree_nodes": options.tree_nodes,
        "tree_width": options.tree_width,
        "threshold": options.threshold,
        "strict": options.strict or None,
        "lossy_budget": options.lossy_budget,
    }
    for entry in options.rule_option:
        name, equals, value = entry.partition("=")
        if given.get(name) is not None:
            raise ValueError(f"rule_option: {name} is given twice")
        try:
            if not (name.isidentifier() and equals):
                raise ValueError
            given[name] = int(value) if value.removeprefix("-").isdecimal() else float(value)
        except ValueError:
            raise ValueError(f"rule_option: {entry!r} is not NAME=NUMBER") from None
    return policy_from_names(options.stop, options.accept, **given)


# Fields whose flags have other names.
_FIELDS = {"stop_text": "stop", "stop_token": "stop_token_ids"}


def _set(message: Message, flag: str, value: Any) -> None:
    """Sets the field of a flag; None leaves it unset. Raises CliError for what the field cannot hold."""
    field = _FIELDS.get(flag, flag)
    try:
        if isinstance(value, list):
            getattr(message, field).extend(value)
        elif value is not None:
            setattr(message, field, value)
    except UnicodeEncodeError as error:
        raise CliError(f"{flag}: {NOT_UTF8}") from error
    except ValueError as error:
        raise CliError(f"{flag}: {error}") from error


def _sampling(options: RequestOptions) -> sampling_pb2.SamplingParams:
    params = sampling_pb2.SamplingParams(temperature=options.temperature)
    for name in ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"):
        _set(params, name, getattr(options, name))
    for entry in options.logit_bias:
        token, equals, bias = entry.partition("=")
        try:
            if not equals:
                raise ValueError
            params.logit_bias[int(token)] = float(bias)
        except ValueError:
            raise ValueError(f"sampling.logit_bias: {entry!r} is not ID=BIAS") from None
    return params
