"""`python -m bench telemetry`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import pair as flags
from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.pair import Pair
from bench.policies import ADASD, POLICIES
from bench.prompts import BUNDLED, read_prompts
from bench.record import check_writable, write_json
from bench.serve.workload import Workload
from bench.telemetry.run import Scale, run
from bench.terminal import conclude, one_line_errors, stdout
from tandem.cli.errors import CliError
from tandem.cli.signals import termination_unwinds
from tandem.telemetry.tracing import tracing_is_installed


def telemetry(
    clients: Annotated[int, typer.Option(min=1, max=64, help="Callers at once, each waits for its answers.")] = 8,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Least length of what is counted. [8]")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Repetitions of both sides. [15; with --quick 3]")] = None,
    policy: Annotated[str, typer.Option(help="Policy of all requests; it should speculate.")] = ADASD,
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and order.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where the figure falls short.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer, in about a minute.")] = False,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """What metrics, traces and logs cost: throughput with all of them on over that with all of them off.

    Two sets of services run side by side and are measured in turn. On: every service's metrics are read every 5
    seconds, every request is traced and its spans are sent to a receiver in this process, logs are JSON. Off: nothing
    of it, the HTTP port included. Two shares: of the throughput, which has the machine's noise and the receiver's own
    work in it, and of the tokens for a second of the services' CPU time, which is steadier. Ratios are taken within a
    repetition; a figure is short only where its whole interval is.
    """
    with one_line_errors():
        if not tracing_is_installed():
            raise CliError("OpenTelemetry is not installed: pip install 'tandem-serving[tracing]'")
        if policy not in POLICIES:
            raise CliError(f"--policy: there is none named {policy!r}; there are {', '.join(map(repr, POLICIES))}")
        from bench.telemetry.receiver import counting_spans
        from bench.telemetry.sides import both_sides

        goals = read_goals("telemetry")
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        if json is not None:
            check_writable(json)
        workload = Workload(prompts, max_tokens, seed=seed)
        scale = Scale(clients, seconds or (3.0 if quick else 8.0), repeat or (3 if quick else 15))
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads)
        console = stdout()
        console.print(describe_machine())
        with (
            termination_unwinds(),
            Console(stderr=True).status("starting the services", refresh_per_second=1) as status,
            counting_spans() as counter,
            both_sides(pair.layout(), counter.endpoint) as (on, off, scraper),
        ):
            measured = asyncio.run(
                run((on, off), scraper, lambda: counter.spans, workload, POLICIES[policy], scale, status.update)
            )
        console.print(f"\n{pair}; {clients} clients, {policy}, {max_tokens} tokens each")
        rows = judge(measured.figures(), goals, {})
        if json is not None:
            asked = {"clients": clients, "seconds": scale.seconds, "repeat": scale.repetitions, "policy": policy}
            options = pair.options() | asked | {"max_tokens": max_tokens, "count": count, "seed": seed}
            write_json(json, "telemetry", rows, quick=quick, options=options, data=measured.to_plain())
    conclude(console, rows, quick=quick, check=check)
