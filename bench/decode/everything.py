"""`python -m bench decode --all`: every method side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bench.decode.figures import DEFAULT, INT4_DRAFT
from bench.decode.methods import methods
from bench.decode.run import Task
from bench.decode.survey import Survey
from bench.machine import describe_machine
from bench.page.cells import Table
from bench.page.methods_tables import methods_tables
from bench.pair import Pair
from bench.plots.forms.methods import MethodsData
from bench.prompts import Prompt
from bench.record import check_writable, write_json
from bench.tables import new_table
from bench.terminal import check_drawing, stdout

#: Where no pair is named: the rig with the draft that a large target would have, and the default one.
PAIRS: Sequence[Pair] = (INT4_DRAFT, DEFAULT)
#: With `--quick`.
QUICK_PAIRS: Sequence[Pair] = (DEFAULT,)
TEMPERATURES = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """only: kinds and keys of methods; None for all. json, plots: a file and a folder to write to, if any."""

    pairs: Sequence[Pair]
    prompts: Sequence[Prompt]
    max_tokens: int
    temperatures: Sequence[float]
    only: Sequence[str] | None
    seed: int
    quick: bool
    json: Path | None
    plots: Path | None

    def options(self) -> dict[str, Any]:
        """For the record."""
        return {
            "prompts": len(self.prompts), "max_tokens": self.max_tokens, "seed": self.seed,
            "only": list(self.only or []),
        }  # fmt: skip


def compare_all(asked: Asked) -> None:
    """Measures, prints the tables and writes what was asked for; after Ctrl-C with what there is. Raises ValueError,
    CliError or OSError before anything is measured."""
    found = methods(asked.only)
    if asked.json is not None:
        check_writable(asked.json)
    if asked.plots is not None:
        check_drawing("--plots")
        asked.plots.mkdir(exist_ok=True)
    tasks = [Task(asked.prompts, asked.max_tokens, degree, asked.seed) for degree in asked.temperatures]
    surveys = [Survey(pair, tasks, found) for pair in asked.pairs]
    console = stdout()
    console.print(describe_machine())
    ended = _measure(surveys)
    runs = [run for survey in surveys if survey.done for run in survey.to_json()]
    data = {"runs": runs}
    if asked.json is not None:
        write_json(asked.json, "methods", quick=asked.quick or ended, options=asked.options(), data=data)
    form = MethodsData.model_validate(data)
    _show(console, form)
    if asked.plots is not None:
        _draw(form, asked.plots)
    if ended:
        console.print("\nEnded before all was measured.")
    elif asked.quick:
        console.print("\nRough: --quick repeats little.")


def _measure(surveys: Sequence[Survey]) -> bool:
    """Whether it was ended early."""
    try:
        for survey in surveys:
            survey.run()
    except KeyboardInterrupt:
        return True
    return False


def _show(console: Console, data: MethodsData) -> None:
    for table, run in zip(methods_tables(data), data.runs, strict=True):
        console.print(f"\n{run.pair}\n{table.title}")
        console.print(_rich(table))


def _rich(table: Table) -> RichTable:
    shown = new_table(*table.head)
    for row in table.rows:
        shown.add_row(*map(escape, row))  # reasons may have brackets
    return shown


def _draw(data: MethodsData, folder: Path) -> None:
    from bench.plots.methods import draw
    from bench.plots.picture import Picture, save

    drawn = draw(data)
    if isinstance(drawn, Picture):
        save(drawn, folder, "methods")
