"""The parts of the bench that are stretched: the ratio rule, live, and the capacity of targets and drafts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from bench.overlap.capacity import MOST_STRETCH, measure
from bench.overlap.capacity_tables import capacity_table, formula_line, loads_table
from bench.overlap.costs import Costs
from bench.overlap.live import Live, LiveTask, ratio
from bench.overlap.run import Task
from bench.rig import BASE, resolve_rig
from tandem.cli.errors import CliError

#: A draft's step of 16 rows is done in so many times 2 ms by one core, while the target computes on another.
LIVE_STRETCH = 100.0
LIVE_LENGTHS: Sequence[int] = (8,)
LIVE_TEXTS, LIVE_TOKENS = 4, 64
#: What Python does for a round of 32 callers is then a small part of it.
CAPACITY_STRETCH = 10.0
_CAPACITY_TOKENS = 64

Say = Callable[[str], None]


def measure_live(
    draft: str, lengths: Sequence[int], texts: int, tokens: int, stretch: float, seed: int, say: Say
) -> Live:
    """draft: as commands name it; the target is the model that the rig is made of. Raises CliError or ModelError."""
    from bench.overlap.record import prompt_tokens  # with torch
    from tandem.inference.loading import tokenizer_folder
    from tandem.models import resolve
    from tandem.tokenization import Tokenizer

    words = Tokenizer.from_folder(tokenizer_folder(resolve(BASE, None)))
    prompts = prompt_tokens(texts)
    task = LiveTask(BASE, resolve_rig(draft), words, prompts, list(lengths), tokens, stretch, seed)
    return asyncio.run(ratio(task, Costs(), say))


def show_capacity(console: Console, task: Task, stretch: float, rate: float | None, say: Say) -> dict[str, Any]:
    """For a bench's record. Raises CliError."""
    if stretch > MOST_STRETCH:
        raise CliError(f"--stretch of --capacity can be {MOST_STRETCH:g} at most, not {stretch:g}")
    costs = Costs()
    short = replace(task, tokens=min(task.tokens, _CAPACITY_TOKENS))
    found = asyncio.run(measure(short, costs, stretch, rate, say))
    console.print(f"Blocks of {found.length} candidates, temperature 0, all times stretched {stretch:g} times\n")
    console.print(loads_table(found))
    console.print(f"\nCallers of which the median has {found.given:.1f} tokens/s")
    console.print(capacity_table(found))
    console.print(formula_line(found, costs))
    return found.to_plain()
