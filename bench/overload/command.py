"""`python -m bench overload`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import pair as flags
from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.overload.figures import AT_CAPACITY, LEAST_REPETITIONS, OVERLOADED, WITHOUT_GOAL, figures
from bench.overload.run import Measured, Scale, run, whole_repetitions
from bench.overload.tables import capacity_table, load_table
from bench.pair import Pair, running
from bench.policies import ADASD, ALONE, POLICIES
from bench.prompts import BUNDLED, read_prompts
from bench.record import check_writable, write_json
from bench.serve.workload import Workload
from bench.terminal import conclude, one_line_errors, stdout
from tandem.cli.errors import CliError

_INTERRUPTED = 130


def overload(
    times: Annotated[
        list[float] | None, typer.Option(help="Arrivals, as a multiple of capacity; may be repeated. [1 3]")
    ] = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(min=1, max=256, help="Callers at once, to find capacity; may be repeated. [2 4 8 16]"),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1.0, help="Deadline of a request, in latencies of a caller alone.")
    ] = 5.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Length of what is counted. [20; --quick 5]")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Repetitions. [1; with --check 5]")] = None,
    policy: Annotated[str, typer.Option(help="Policy of all requests.")] = ADASD,
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts, arrivals and order.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer: short windows.")] = False,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """What callers with deadlines get at capacity and above it.

    \b
    First one caller alone: its median latency, times --patience, is the deadline of every request after that.
    Then a closed loop of more and more callers: capacity is the most requests per second that end in time.
    Then an open loop, requests that arrive by chance, at each multiple of capacity; those due in a window are counted.
    Goodput is how many of them per second end within their deadlines; a refused request is not sent again.

    Ratios are taken within a repetition. Ctrl-C ends it with what whole repetitions have given.
    """
    with one_line_errors():
        if check and repeat is not None and repeat < LEAST_REPETITIONS:
            raise CliError(f"--check needs --repeat {LEAST_REPETITIONS} or more, not {repeat}")
        if any(each <= 0 for each in times or ()):
            raise CliError("--times: must be above 0")
        if policy not in POLICIES:
            raise CliError(f"--policy: there is none named {policy!r}; there are {', '.join(map(repr, POLICIES))}")
        if draft_model == "none" and policy != ALONE:
            raise CliError(f"--draft-model none: only --policy {ALONE!r} does without a draft")
        goals = read_goals("overload")
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        if json is not None:
            check_writable(json)
        scale = Scale(
            clients=sorted(set(clients or Scale().clients)),
            seconds=seconds or (5.0 if quick else 20.0),
            repetitions=repeat or (LEAST_REPETITIONS if check else 1),
            multiples=sorted(set(times or (AT_CAPACITY, OVERLOADED))),
            patience=patience,
        )
        workload = Workload(prompts, max_tokens, seed=seed)
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads)
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; {policy}, {len(prompts)} prompts, {max_tokens} tokens each\n")
        measured, interrupted = Measured(), False
        try:
            with running(pair) as client, Console(stderr=True).status("starting", refresh_per_second=1) as status:
                asyncio.run(run(client.endpoint, workload, POLICIES[policy], scale, measured, status.update))
        except KeyboardInterrupt:
            interrupted = True
        repetitions = whole_repetitions(measured)
        if not repetitions:
            raise typer.Exit(_INTERRUPTED)
        console.print(f"One caller alone: {measured.alone * 1e3:.0f} ms. Deadline: {measured.deadline * 1e3:.0f} ms.\n")
        console.print(capacity_table(measured))
        console.print("\nTimes as p50 / p95 / p99.")
        console.print(load_table(measured))
        console.print()
        rows = judge(figures(measured, repetitions), goals, WITHOUT_GOAL)
        if json is not None:
            asked = {"patience": patience, "seconds": scale.seconds, "repeat": scale.repetitions, "policy": policy}
            options = pair.options() | asked | {"max_tokens": max_tokens, "count": count, "seed": seed}
            write_json(json, "overload", rows, quick=quick, options=options, data=measured.to_plain())
    conclude(console, rows, quick=quick, check=check and not interrupted)
    if interrupted:
        console.print(f"Interrupted: {repetitions} of {scale.repetitions} repetitions.")
        raise typer.Exit(_INTERRUPTED)
