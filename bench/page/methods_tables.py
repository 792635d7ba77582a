"""The table of what `bench decode --all` measured."""

from __future__ import annotations

from collections.abc import Sequence

from bench.decode.standing import standing
from bench.page.cells import Table, interval, number, percent
from bench.plots.forms.methods import MethodRow, MethodsData, MethodsRun
from bench.policies import ALONE

_HEAD = (
    "method", "drafter", "tokens/s", "over target alone", "over vanilla", "mean acceptance length", "let through",
    "as the target alone", "note",
)  # fmt: skip


def methods_tables(data: MethodsData) -> list[Table]:
    """One for each run."""
    return [methods_table(run, title) for title, run in zip(data.titles, data.runs, strict=True)]


def methods_table(run: MethodsRun, which: str) -> Table:
    """All methods below the baselines. A method that was not measured says why."""
    most = max((len(row.completions) for row in (*run.baselines, *run.rows)), default=0)
    rows = [_cells(run, row, most) for row in (*run.baselines, *run.rows)]
    return Table(f"Methods, {which}, {run.max_tokens} tokens each, {most} prompts", _HEAD, rows, texts=(1, 8))


def label(row: MethodRow) -> str:
    """As `accept: fly`; of a baseline its name."""
    return row.name if row.kind == "baseline" else f"{row.kind}: {row.name}"


def _cells(run: MethodsRun, row: MethodRow, most: int) -> Sequence[str]:
    found = standing(run, row)
    speculates = row.name != ALONE and found.prompts
    return (
        label(row),
        row.setup,
        number(found.tokens_per_second, 1),
        "1" if row.name == ALONE and found.prompts else interval(found.over_alone),
        interval(found.over_vanilla) if speculates else "",
        number(found.acceptance_length) if speculates else "",
        percent(found.lossy_share) if row.lossy else "",
        percent(found.as_alone) if speculates else "",
        _note(row, found.prompts, most),
    )


def _note(row: MethodRow, prompts: int, most: int) -> str:
    if prompts == most:
        return row.why
    count = f"{prompts} of {most} prompts" if prompts else "not measured"
    return f"{count}: {row.why}" if row.why else count
