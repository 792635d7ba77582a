"""`python -m bench`: the benches and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.decode import POLICIES, run
from bench.machine import describe_machine
from bench.prompts import SPEC_BENCH_20, read_prompts
from bench.tables import policy_table, round_table, wire_table
from bench.wire import measure
from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.options import DraftModel, Endpoint, TargetModel
from tandem.cli.services import Layout
from tandem.cli.session import connected
from tandem.rpc.errors import TandemError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Benches of Tandem. Ratios within one run are worth quoting; absolute times are the machine's."""


@app.command()
def decode(
    data: Annotated[Path, typer.Option(help="Prompts, JSON lines in Spec-Bench's format.")] = SPEC_BENCH_20,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take, from the first.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling and of the order.")] = 0,
    target_model: TargetModel = "embedded:smollm2",
    draft_model: DraftModel = "embedded:smollm2-draft",
    endpoint: Endpoint = None,
) -> None:
    """Policies side by side: acceptance, speed against the target alone, and where a round's time goes.

    Every prompt is completed by every policy, in an order shuffled anew for each prompt.
    """
    console = _console()
    layout = Layout(target_model=target_model, draft_model=draft_model)
    try:
        prompts = read_prompts(data)[:count]
        with connected(endpoint, layout, Console(stderr=True)) as client:
            _decode(client, console, prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
    except (CliError, TandemError, OSError, ValueError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def wire(
    megabytes: Annotated[int, typer.Option(min=1, help="What a model reads for a step.")] = 270,
    count: Annotated[int, typer.Option(min=10, help="Exchanges to measure.")] = 100,
) -> None:
    """What a bare exchange between two processes costs: the floor of a round, which has two."""
    console = _console()
    console.print(describe_machine())
    console.print(wire_table({"sleeps": measure(0, count), f"reads {megabytes} MB": measure(megabytes, count)}))


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no width
        console.width = 140
    return console


def _decode(
    client: Client, console: Console, prompts: list[str], *, max_tokens: int, temperature: float, seed: int
) -> None:
    models = client.models()
    console.print(describe_machine())
    console.print(
        f"target {models.target.model_id} ({models.target.dtype}), draft {models.draft.model_id or 'none'};"
        f" {len(prompts)} prompts, {max_tokens} tokens each, temperature {temperature:g}\n"
    )
    results = run(client, prompts, POLICIES, max_tokens=max_tokens, temperature=temperature, seed=seed)
    console.print(policy_table(results))
    console.print()
    console.print(round_table(results))


if __name__ == "__main__":
    app()
