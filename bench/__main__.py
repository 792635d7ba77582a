"""`python -m bench`: the benches and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.budget.command import budget
from bench.decode.command import decode
from bench.draft.command import draft
from bench.engine.command import Options, measured
from bench.engine.figures import SOAK_GOAL_MINUTES, Group
from bench.machine import describe_machine
from bench.overlap.command import overlap
from bench.overload.command import overload
from bench.page.command import report
from bench.page.methods_command import methods
from bench.peers.command import peers
from bench.quality.command import quality
from bench.record import check_writable, write_json
from bench.reproducibility.command import reproducibility
from bench.serve.command import serve
from bench.tables import rig_table, wire_table
from bench.telemetry.command import telemetry
from bench.terminal import conclude, one_line_errors, stdout
from bench.wire import measure
from tandem.serving import prepare_for_models

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


app.command()(budget)
app.command()(decode)
app.command()(draft)
app.command()(methods)
app.command()(overlap)
app.command()(overload)
app.command()(peers)
app.command()(quality)
app.command()(report)
app.command()(reproducibility)
app.command()(serve)
app.command()(telemetry)


@app.callback()
def _root() -> None:
    """Benches of Tandem. Ratios within one run are worth quoting; absolute times are the machine's."""


@app.command()
def rig(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """The stand-ins for a large pair: how far they agree with the model that they are made of, and what they cost."""
    with one_line_errors():
        console = stdout()
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
    console = stdout()
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
    with one_line_errors():
        options = Options(tuple(only or ()), quick, soak, seed, model, threads)
        if json is not None:
            check_writable(json)
        console = stdout()
        console.print(describe_machine())
        with Console(stderr=True).status("loading the models") as status:
            rows = measured(options, lambda figure: status.update(f"measuring; the last figure was {figure.name}"))
        if json is not None:
            write_json(json, "engine", rows, quick=quick)
    conclude(console, rows, quick=quick, check=check)


if __name__ == "__main__":
    app()
