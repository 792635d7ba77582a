"""`python -m bench budget`."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import pair as flags
from bench.budget.run import ALL, BEST, SHARES, Measured, Scale, run
from bench.budget.tables import ways_table
from bench.machine import describe_machine
from bench.pair import Pair, running
from bench.prompts import BUNDLED, read_prompts
from bench.record import check_writable, write_json
from bench.serve.workload import Workload
from bench.terminal import one_line_errors, stdout

_INTERRUPTED = 130


def budget(
    clients: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Callers at once; may be repeated. [8 16 32 64]")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates that a step verifies: the budget.")] = 32,
    block: Annotated[int, typer.Option(min=1, max=64, help="Candidates that are drafted for a block.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Least length of what is counted.")] = 10.0,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 1,
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts, sampling and order.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """What a budget of candidates in a target's step is worth to many callers (TETRIS, arXiv 2502.15197).

    \b
    no budget     every caller's block of --block candidates is verified whole
    equal shares  blocks are as long as each caller's share of --candidates; the target alone where that is less than 1
    best of all   blocks are --block long; the target verifies the --candidates of them that are likeliest to be kept

    A closed loop, as in `bench serve`. The services with and without a budget run side by side and are asked in turn,
    so that ratios are of one repetition. Ctrl-C ends it with what whole repetitions have given.
    """
    with one_line_errors():
        scale = Scale(tuple(clients or (8, 16, 32, 64)), seconds, repeat, block, candidates)
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        workload = Workload(prompts, max_tokens, temperature, seed)
        if json is not None:
            check_writable(json)
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads)
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; {len(prompts)} prompts, {max_tokens} tokens each\n")
        measured, interrupted = Measured(), False
        try:
            with ExitStack() as stack:
                status = stack.enter_context(Console(stderr=True).status("starting", refresh_per_second=1))
                whole = stack.enter_context(running(pair)).endpoint
                bounded = stack.enter_context(running(replace(pair, verify_budget=str(candidates)))).endpoint
                endpoints = {ALL: whole, SHARES: whole, BEST: bounded}
                asyncio.run(run(endpoints, workload, scale, measured, status.update))
        except KeyboardInterrupt:
            interrupted = True
        repetitions = measured.whole_repetitions()
        if not repetitions:
            raise typer.Exit(_INTERRUPTED)
        console.print(ways_table(measured, scale))
        if json is not None:
            asked = {"clients": list(scale.clients), "candidates": candidates, "block": block, "seconds": seconds}
            asked |= {"repeat": repetitions, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
            write_json(json, "budget", options=pair.options() | asked, data=measured.to_plain())
    if interrupted:
        console.print(f"Interrupted: {repetitions} of {repeat} repetitions.")
        raise typer.Exit(_INTERRUPTED)
