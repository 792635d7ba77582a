"""`python -m bench overlap`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.overlap import curves
from bench.overlap.costs import Costs
from bench.overlap.figures import CALLERS, FAR, NEAR, NOISE, SMALL, WITHOUT_GOAL, Measured, figures
from bench.overlap.parts import (
    CAPACITY_STRETCH,
    LIVE_LENGTHS,
    LIVE_STRETCH,
    LIVE_TEXTS,
    LIVE_TOKENS,
    measure_live,
    show_capacity,
)
from bench.overlap.recording import Recording
from bench.overlap.run import BRANCHES, NONE, Task, alone, bound, together
from bench.overlap.sweep import sweep
from bench.overlap.tables import live_table, paper_table, sides_table
from bench.record import check_writable, write_json
from bench.terminal import check_drawing, conclude, one_line_errors, stdout
from tandem.cli.errors import CliError
from tandem.serving import prepare_for_models

DRAFTS: Mapping[str, str] = {NOISE: "rig:noise-0.05", SMALL: "embedded:smollm2-draft"}
_PAIRS = (NOISE, 0.0), (SMALL, 0.0), (NOISE, 1.0)
_LENGTHS, _QUICK_LENGTHS = (2, 4, 6, 8, 10, 12, 14), (4, 8, 12)
_FREE_LENGTHS = (12, 15, 18, 22)
_WIRES = (0.0, NEAR, 2.0, FAR, 40.0)
# Of a block where many callers are measured: what a caller alone is best served with may not be.
_LENGTH_TOGETHER = 8

Say = Callable[[str], None]


def overlap(
    wire: Annotated[
        list[float] | None, typer.Option(min=0.0, help="Delay of the draft's wire, ms one way; may be repeated.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Candidates of a block; may be repeated.")
    ] = None,
    texts: Annotated[int, typer.Option(min=1, max=16, help="Recorded texts to complete.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=2, max=128, help="Tokens of each completion.")] = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Completions of each text by each side.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order.")] = 0,
    record: Annotated[bool, typer.Option("--record", help="Make the recordings anew.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Only work out what policies can reach; no services.")] = False,
    ratio: Annotated[bool, typer.Option("--ratio", help="Only the ratio rule at temperature 1, live.")] = False,
    capacity: Annotated[
        bool, typer.Option("--capacity", help="Only how many callers a target serves, drafts beside it or elsewhere.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Of --capacity: tokens/s that each caller is to have; half of what one alone gets if unset."
        ),
    ] = None,
    stretch: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help=f"How many times as long all takes; 1, --ratio {LIVE_STRETCH:g}, --capacity {CAPACITY_STRETCH:g}.",
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write pictures to this folder, as PNG and SVG.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer: few lengths.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
) -> None:
    """What drafting while the target verifies hides of the draft's time and of the wire to it.

    A PACED REPLAY: real services serve what real models said once, on devices that take a set time for each step. The
    bound beside the figures is the best fixed length with a draft and a wire that cost nothing.
    """
    with one_line_errors():
        _check([paper, ratio, capacity], json, plots)
        goals = read_goals("overlap")
        console = stdout()
        console.print(describe_machine())
        longer = "" if stretch is None else f", all of it {stretch:g} times as long"
        console.print(f"A paced replay: what models said is real, what a step takes is set{longer}.\n")
        prepare_for_models()
        asked = {"texts": texts, "max_tokens": max_tokens, "repeat": repeat, "seed": seed, "stretch": stretch}
        with Console(stderr=True).status("reading the recordings", refresh_per_second=1) as status:
            kept = _Recordings(record, status.update)
            if paper:
                _show_paper(console, kept, wire or [NEAR, FAR], texts, max_tokens)
                _draw(plots, lambda: curves.on_paper(kept.by_title(), NEAR, texts=texts, tokens=max_tokens))
                return
            order = random.Random(seed)

            def task(draft: str, temperature: float) -> Task:
                recording, path = kept.of(draft, temperature)
                lengths = sorted(set(length or (_QUICK_LENGTHS if quick else _LENGTHS)))
                return Task(recording, path, lengths, texts, max_tokens, repeat, order, stretch or 1.0)

            if capacity:
                one = replace(task(NOISE, 0.0), lengths=length or [_LENGTH_TOGETHER])
                data = show_capacity(console, one, stretch or CAPACITY_STRETCH, rate, status.update)
                if json is not None:
                    write_json(json, "overlap", quick=quick, options=asked, data={"capacity": data})
                return
            measured = Measured()
            if not ratio:
                measured = asyncio.run(_measure(task, sorted(set(wire or _wires(quick, check))), status.update))
            if ratio or check:
                measured.live = measure_live(
                    DRAFTS[NOISE], length or LIVE_LENGTHS, min(texts, LIVE_TEXTS), min(max_tokens, LIVE_TOKENS),
                    (stretch if ratio else None) or LIVE_STRETCH, seed, status.update,
                )  # fmt: skip
        _show(console, measured)
        _draw(plots, lambda: filter(None, [curves.live(measured, DRAFTS)]))
        rows = judge(figures(measured), goals, WITHOUT_GOAL)
        if json is not None:
            write_json(json, "overlap", rows, quick=quick, options=asked, data=_to_plain(measured))
    conclude(console, rows, quick=quick, check=check)


def _check(only: Sequence[bool], json: Path | None, plots: Path | None) -> None:
    """Before anything is measured. Raises CliError or OSError."""
    if sum(only) > 1:
        raise CliError("--paper, --ratio and --capacity each say what alone to do; give one of them")
    if json is not None:
        check_writable(json)
    if plots is not None:
        check_drawing("--plots")
        plots.mkdir(exist_ok=True)


def _draw(folder: Path | None, sweeps: Callable[[], Iterable[curves.Sweep]]) -> None:
    """Raises OSError."""
    if folder is None:
        return
    from bench.plots.overlap import draw  # with matplotlib
    from bench.plots.picture import save

    for each in sweeps():
        save(draw(each), folder, each.name)


def _show(console: Console, measured: Measured) -> None:
    for (draft, temperature, delay), sides in measured.sides.items():
        found = measured.bounds[draft, temperature]
        console.print(
            f"\nDraft {DRAFTS[draft]}, temperature {temperature:g}, wire {delay:g} ms; the bound is"
            f" {found.speed:.1f} tokens/s, at length {found.length}"
        )
        console.print(sides_table(sides, found))
    if measured.live is not None:
        console.print(
            f"\nLive, by the ratio rule at temperature 1, all times stretched {measured.live.stretch:g} times"
        )
        console.print(live_table(measured.live))
        for role, steps in measured.live.steps.items():
            console.print(f"{steps.late_share:.1%} of {steps.made} steps of the {role} were later than set")
    console.print()


class _Recordings:
    """Made where they are not there yet."""

    def __init__(self, again: bool, say: Say) -> None:
        self._again = again
        self._say = say
        self._known: dict[tuple[str, float], tuple[Recording, Path]] = {}

    def of(self, draft: str, temperature: float) -> tuple[Recording, Path]:
        """Raises ModelError or OSError."""
        from bench.overlap.record import Subject, recorded  # with torch

        if (draft, temperature) not in self._known:
            subject = Subject(DRAFTS[draft], temperature)
            self._known[draft, temperature] = recorded(subject, again=self._again, say=self._say), subject.path
        return self._known[draft, temperature]

    def by_title(self) -> dict[str, Recording]:
        """All that figures are made of. Raises ModelError or OSError."""
        return {
            f"draft {DRAFTS[draft]}\ntemperature {temperature:g}": self.of(draft, temperature)[0]
            for draft, temperature in _PAIRS
        }


def _wires(quick: bool, check: bool) -> Sequence[float]:
    return (NEAR, FAR) if quick or check else _WIRES


async def _measure(task: Callable[[str, float], Task], wires: Sequence[float], say: Say) -> Measured:
    measured = Measured()
    greedy = task(NOISE, 0.0)
    wanted = [(NOISE, 0.0, delay) for delay in wires]
    if NEAR in wires:
        wanted += [(SMALL, 0.0, NEAR), (NOISE, 1.0, NEAR)]
    for draft, temperature, delay in wanted:
        one = task(draft, temperature)
        measured.bounds[draft, temperature] = bound(one, Costs())
        measured.sides[draft, temperature, delay] = await alone(one, Costs(wire=delay), list(BRANCHES), say)
    free = replace(greedy, lengths=_FREE_LENGTHS, repetitions=1)
    sides = await alone(free, Costs(draft=0.0, wire=0.0), [NONE], say)
    measured.free = sides, measured.bounds[NOISE, 0.0]
    if NEAR in wires:
        measured.together = await together(greedy, Costs(wire=NEAR), CALLERS, _LENGTH_TOGETHER, say)
    return measured


def _show_paper(console: Console, kept: _Recordings, wires: Sequence[float], texts: int, tokens: int) -> None:
    for draft, temperature in _PAIRS:
        recording, _ = kept.of(draft, temperature)
        console.print(
            f"\nOn paper: draft {DRAFTS[draft]}, temperature {temperature:g}; each policy at its best lengths"
        )
        console.print(paper_table(list(sweep(recording, wires, texts=texts, tokens=tokens))))


def _to_plain(measured: Measured) -> dict[str, Any]:
    return {
        "bounds": [
            {"draft": DRAFTS[draft], "temperature": temperature, "tokens_per_second": each.speed, "length": each.length}
            for (draft, temperature), each in measured.bounds.items()
        ],
        "sides": [
            {"draft": DRAFTS[draft], "temperature": temperature, "wire": delay, "way": way, "length": length}
            | sums.to_plain()
            for (draft, temperature, delay), sides in measured.sides.items()
            for (way, length), sums in sides.items()
        ],
        "together": {way: sums.to_plain() for way, sums in measured.together.items()},
        "live": None if measured.live is None else measured.live.to_plain(),
    }
