"""`python -m tests.chaos`: the flags of a run."""

from __future__ import annotations

import asyncio
import enum
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.figures import figures
from tests.chaos.processes import ServiceFailed
from tests.chaos.report import report, report_bad
from tests.chaos.run import Options, Run
from tests.chaos.soak import CALLERS, Soak

_INTERRUPTED = 130


class Pair(enum.StrEnum):
    TINY = "tiny"
    EMBEDDED = "embedded"


def main(
    minutes: Annotated[float, typer.Option(min=0.1, max=24 * 60, help="How long there are faults.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the schedule of faults, of prompts and texts.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 also for too few faults, or a kill that added too much.")
    ] = False,
    soak: Annotated[
        bool, typer.Option("--soak", help=f"No faults: {CALLERS} callers, flat memory and descriptors.")
    ] = False,
    callers: Annotated[int, typer.Option(min=1, max=256, help="Callers, each with one request at a time.")] = 8,
    models: Annotated[Pair, typer.Option(help="What is served: tiny random models, or the embedded pair.")] = Pair.TINY,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Count requests that failed though a target was there; allow them.")
    ] = False,
) -> None:
    """The real services under faults, on loopback: every text is compared, every leak looked for.

    Exits with 1 where anything is not as it should be; the services' logs are kept then.
    """
    if not Path("/proc/self/fd").is_dir():
        _refuse("finds what processes hold by /proc, which this system has not")
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no width
        console.width = 160
    options = Options(minutes, seed, callers, models is Pair.EMBEDDED, lenient)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    say(f"seed {seed}, {minutes:g} minutes, {models} models")
    try:
        result = asyncio.run((Soak if soak else Run)(options, say).run())
    except ServiceFailed as error:
        _refuse(str(error))
    (report_bad if soak else report)(console, result)
    if result.is_good:
        shutil.rmtree(result.folder)
    short = check and not soak and not all(figure.holds for figure in figures(result))
    raise typer.Exit(_INTERRUPTED if result.interrupted else 1 if short or not result.is_good else 0)


def _refuse(why: str) -> None:
    print(f"chaos: {why}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
