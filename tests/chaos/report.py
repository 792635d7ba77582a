"""What a run prints at its end."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tests.chaos.figures import figures
from tests.chaos.history import Event
from tests.chaos.judging import Verdict
from tests.chaos.run import Result
from tests.chaos.tally import MOST_TOLD


def report(console: Console, result: Result) -> None:
    console.print()
    if result.tally is not None:
        console.print(_faults(result))
        console.print(_met(result.history.events))
        _totals(console, result)
        console.print(_figures(result))
    report_bad(console, result)


def report_bad(console: Console, result: Result) -> None:
    """What is not as it should be, in words."""
    if result.tally is not None:
        _told(console, "bad requests", result.tally.bad)
    _told(console, "leaks", result.leaks)
    _told(console, "problems", result.problems)
    _told(console, "in the logs", result.logged)
    if not result.is_good:
        console.print(f"the services' logs are in {result.logs}", soft_wrap=True)
    if result.interrupted:
        console.print("interrupted before its end: the figures are of what was done")


def _faults(result: Result) -> Table:
    groups: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in result.history.events:
        groups[event.fault.kind, event.fault.on].append(event)
    skipped = Counter((fault.kind, fault.on) for fault in result.history.skipped)
    table = Table("fault", "of", title="Faults", title_justify="left")
    for name in ("happened", "survived", "with others", "requests met", "failed, allowed", "not as it should be"):
        table.add_column(name, justify="right")
    for (kind, victim), events in sorted(groups.items()):
        table.add_row(kind, victim, *map(str, _row(events)))
    table.add_row("all", "", *map(str, _row(result.history.events)), style="bold")
    if skipped:
        table.caption = f"{skipped.total()} more were due while their victim, or all others of its kind, were hit"
    return table


def _row(events: Iterable[Event]) -> tuple[int, ...]:
    events = list(events)
    return (
        len(events),
        sum(not event.wrong for event in events),
        sum(bool(event.met) for event in events),
        sum(event.affected for event in events),
        sum(event.allowed for event in events),
        sum(event.wrong for event in events),
    )


def _met(events: Iterable[Event]) -> str:
    pairs = Counter(
        " + ".join(sorted((f"{event.fault.kind} {event.fault.on}", other))) for event in events for other in event.met
    )
    common = ", ".join(f"{pair} ({count // 2 or 1})" for pair, count in pairs.most_common(8))
    return f"{len(pairs)} kinds of pairs coincided; most often: {common}" if pairs else "no two coincided"


def _totals(console: Console, result: Result) -> None:
    tally = result.tally
    assert tally is not None
    callers = ", ".join(f"{count} {name}" for name, count in sorted(tally.callers.items()))
    console.print(
        f"{tally.requests} requests ({callers}), {tally.tokens} tokens, {tally.compared} texts compared,"
        f" {len(result.history.events)} faults, {result.seconds:.0f} s in all"
    )
    console.print(", ".join(f"{tally.verdicts[verdict]} {verdict}" for verdict in Verdict))
    if tally.codes:
        console.print("failed with: " + ", ".join(f"{count} {code}" for code, count in tally.codes.most_common()))


def _figures(result: Result) -> Table:
    table = Table("figure", title="Figures", title_justify="left")
    for name in ("measured", "goal", ""):
        table.add_column(name, justify="right")
    table.add_column("")
    for figure in figures(result):
        measured = "nothing" if figure.measured is None else f"{figure.measured:.4g}"
        if figure.measured is not None and not math.isfinite(figure.measured):
            measured = "not finite"
        goal = f"{'at least' if figure.at_least else 'at most'} {figure.goal:g}"
        verdict = "holds" if figure.holds else "short" if figure.is_judged else "short (judged by --check)"
        table.add_row(figure.what, measured, goal, verdict, figure.note)
    return table


def _told(console: Console, what: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print(f"\n{len(lines)} {what}:", style="bold")
    for line in lines[:MOST_TOLD]:
        console.print(line, markup=False, soft_wrap=True)
    if len(lines) > MOST_TOLD:
        console.print(f"and {len(lines) - MOST_TOLD} more")
