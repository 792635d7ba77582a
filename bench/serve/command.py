"""`python -m bench serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import pair as flags
from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.pair import Pair, running
from bench.policies import ALONE
from bench.prompts import BUNDLED, read_prompts
from bench.record import check_writable, write_json
from bench.serve.figures import figures
from bench.serve.options import Options
from bench.serve.points import Point
from bench.serve.report import Report
from bench.serve.run import run, whole_repetitions
from bench.serve.workload import Workload
from bench.terminal import conclude, one_line_errors, stdout
from tandem.cli.errors import CliError

_INTERRUPTED = 130


def serve(
    clients: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, help="Callers at once, each waits for its answers; may be repeated. [1 2 4 8 16]"),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Requests per second, arriving by chance; may be repeated.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Least length of what is counted. [10]")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Least requests that each client ends in it.")] = 1,
    repeat: Annotated[int | None, typer.Option(min=1, help="Repetitions. [1; with --check 5]")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Fixed lengths too, to hold goodput against.")] = False,
    in_flight: Annotated[int, typer.Option(min=1, help="Most requests under way at a --rate.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 300.0,
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 20,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of each completion. [64]")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts, arrivals, sampling and order.")] = 0,
    shared_prompts: Annotated[
        bool, typer.Option("--shared-prompts", help="Let prompts repeat, which makes prefill nearly free.")
    ] = False,
    natural_lengths: Annotated[
        bool, typer.Option("--natural-lengths", help="Let texts end at the end of sequence.")
    ] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer: few, short requests.")] = False,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """What many callers get by each policy, and at which load speculation stops paying.

    \b
    Closed loop (--clients): a caller sends its next request when its last one has ended. Each ends one to warm up.
      Requests that begin and end inside the window that follows are counted. It closes when a request ends.
    Open loop (--rate): requests arrive by chance. Those due in the window are counted, and followed to their ends;
      times count from when a request was due. It warms up for a quarter of the window's length.
    Tokens per second are of all tokens that arrive inside the window, requests per second of all that end inside.
    Refused requests (RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED) are counted as failed and not sent again.

    Each prompt begins with a random number of its own, since the target keeps prompts for others that begin alike;
    --shared-prompts does without. All texts have the same length, unless --natural-lengths lets them end.
    Ctrl-C ends it with what whole repetitions have given.
    """
    with one_line_errors():
        options = Options(
            clients or (), rate or (), seconds, requests, repeat, in_flight, timeout, policy or (), sweep, max_tokens,
            check, quick,
        )  # fmt: skip
        policies = options.policies()
        if draft_model == "none" and list(policies) != [ALONE]:
            raise CliError(f"--draft-model none: only --policy {ALONE!r} does without a draft")
        goals = read_goals("serve")
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        workload = Workload(prompts, options.tokens(), temperature, seed, shared_prompts, natural_lengths)
        if json is not None:
            check_writable(json)
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads)
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; {len(prompts)} prompts, {options.tokens()} tokens each\n")
        points: list[Point] = []
        interrupted = False
        try:
            with running(pair) as client, Console(stderr=True).status("starting", refresh_per_second=1) as status:
                asyncio.run(
                    run(client.endpoint, workload, policies, options.loads(), options.scale(), points, status.update)
                )
        except KeyboardInterrupt:
            interrupted = True
        repetitions = whole_repetitions(points)
        if not repetitions:
            raise typer.Exit(_INTERRUPTED)
        report = Report(points)
        report.show(console)
        rows = judge(figures(report.sweeps, repetitions), goals, {})
        if json is not None:
            asked = pair.options() | options.to_plain() | _options(workload, data, count)
            write_json(json, "serve", rows, quick=quick, options=asked, data=report.to_plain())
    conclude(console, rows, quick=quick, check=check and not interrupted)
    if interrupted:
        console.print(f"Interrupted: {repetitions} of {options.scale().repetitions} repetitions.")
        raise typer.Exit(_INTERRUPTED)


def _options(workload: Workload, data: list[Path] | None, count: int) -> dict[str, Any]:
    return {
        "data": [str(path) for path in data] if data else None,
        "count": count,
        "temperature": workload.temperature,
        "seed": workload.seed,
        "shared_prompts": workload.shared_prompts,
        "natural_lengths": workload.natural_lengths,
    }
