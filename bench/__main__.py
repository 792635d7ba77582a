"""`python -m bench`: the benches and their flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.decode import POLICIES, run
from bench.engine.command import Options, measured
from bench.engine.figures import SOAK_GOAL_MINUTES, Group
from bench.goals import Row, falls_short, summary
from bench.machine import describe_machine
from bench.prompts import SPEC_BENCH_20, read_prompts
from bench.report import check_writable, write_json
from bench.rig import resolve_rig
from bench.tables import goals_table, policy_table, rig_table, round_table, wire_table
from bench.wire import measure
from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.options import DraftModel, Endpoint, TargetModel
from tandem.cli.services import Layout
from tandem.cli.session import connected
from tandem.models import ModelError
from tandem.rpc.errors import TandemError
from tandem.serving import prepare_for_models
from tandem.tokenization import TokenizationError

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
    with _one_line_errors():
        prompts = read_prompts(data)[:count]
        layout = Layout(target_model=resolve_rig(target_model), draft_model=resolve_rig(draft_model))
        with connected(endpoint, layout, Console(stderr=True)) as client:
            _decode(client, _console(), prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)


@app.command()
def rig(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """The stand-ins for a large pair: how far they agree with the model that they are made of, and what they cost."""
    with _one_line_errors():
        console = _console()
        console.print(describe_machine())
        prepare_for_models()
        from bench.rig_figures import measure as measure_rig

        with Console(stderr=True).status("building and measuring"):
            figures = list(measure_rig(threads))
        console.print(rig_table(figures))


@app.command()
def wire(
    megabytes: Annotated[int, typer.Option(min=1, help="What a model reads for a step.")] = 270,
    count: Annotated[int, typer.Option(min=10, help="Exchanges to measure.")] = 100,
) -> None:
    """What a bare exchange between two processes costs: the floor of a round, which has two."""
    console = _console()
    console.print(describe_machine())
    console.print(wire_table({"sleeps": measure(0, count), f"reads {megabytes} MB": measure(megabytes, count)}))


@app.command()
def engine(
    only: Annotated[list[Group] | None, typer.Option(help="Measure this group of figures; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer, in less than a minute.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    soak: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="MINUTES", help=f"Soak for so long; the goal is for {SOAK_GOAL_MINUTES:g}."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures to this file, too.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts, moments and order.")] = 0,
    model: Annotated[str, typer.Option(help="As services take it; goals are for the default.")] = "embedded:smollm2",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each side.")] = 2,
) -> None:
    """The engine beside plain transformers on the same weights, and against its goals (bench/goals.toml).

    Without --soak the soak is skipped: it then neither holds nor falls short.
    """
    with _one_line_errors():
        options = Options(tuple(only or ()), quick, soak, seed, model, threads)
        if json is not None:
            check_writable(json)
        console = _console()
        console.print(describe_machine())
        with Console(stderr=True).status("loading the models") as status:
            rows = measured(options, lambda figure: status.update(f"measuring; the last figure was {figure.name}"))
        if json is not None:
            write_json(json, "engine", rows, quick=quick)
    _conclude(console, rows, quick=quick, check=check)


def _conclude(console: Console, rows: Sequence[Row], *, quick: bool, check: bool) -> None:
    """The end of every bench that has goals."""
    console.print(goals_table(rows))
    console.print(f"\n{'Rough: --quick repeats little. ' if quick else ''}{summary(rows)}")
    if check and falls_short(rows):
        raise typer.Exit(1)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (CliError, TandemError, ModelError, TokenizationError, OSError, ValueError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(2) from error


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no width
        console.width = 240
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
