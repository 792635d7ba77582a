"""`python -m bench decode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import pair as flags
from bench.decode.everything import PAIRS, QUICK_PAIRS, TEMPERATURES, Asked, compare_all
from bench.decode.figures import GOAL_PAIRS, GOAL_POLICIES, figures
from bench.decode.run import Done, Sums, Task, clients, run, trace
from bench.decode.tables import dataset_table, policy_table, round_table
from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.pair import Pair
from bench.policies import chosen
from bench.prompts import BUNDLED, Prompt, read_prompts
from bench.record import check_writable, write_json
from bench.terminal import conclude, one_line_errors, stdout
from tandem.cli.render import to_plain
from tandem.v1 import policy_pb2

Policies = Mapping[str, policy_pb2.SpeculationPolicy]


def decode(
    data: flags.Data = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Most prompts to take of each file, from the first. [8; with --check 4, --quick 1]"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of each completion. [64; with --quick 32]")
    ] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(min=0.0, help="0 is greedy; may be repeated. [0; with --all 0 and 1]")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    traced: Annotated[
        int, typer.Option("--trace", min=0, help="Trace the rounds of so many prompts, for --json; none with --all.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling and of the order.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Measure the pairs of the goals; exit with 1 where one falls short.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every accept rule, stop rule, drafter and tree; --policy is not for this.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="With --all: only this kind or method, as stop or accept/fly; may be repeated."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="With --all: a rough answer, in some minutes.")] = False,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --all: write the picture to this folder, as PNG and SVG.")
    ] = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """Policies side by side: acceptance, speed against the target alone, and where a round's time goes.

    Every prompt is completed by every policy, in an order shuffled anew for each prompt. With --check the pairs are
    those of the goals (bench/goals.toml): flags that name another pair do not go with it. With --all every method is
    one line, on the rig and on the default pair unless one is named; Ctrl-C ends it with what there is.
    """
    with one_line_errors():
        named = Pair(target_model, draft_model, dtype, draft_weights, threads)
        if everything:
            if check or policy:
                raise ValueError("--all has no goals and takes --only, not --policy: leave out --check and --policy")
            pairs = [named] if named != Pair() else QUICK_PAIRS if quick else PAIRS
            taken = [
                prompt for path in data or BUNDLED for prompt in read_prompts(path, count or (1 if quick else 8))
            ]
            length = max_tokens or (32 if quick else 64)
            degrees = list(dict.fromkeys(temperature or TEMPERATURES))
            compare_all(Asked(pairs, taken, length, degrees, only, seed, quick, json, plots))
            return
        if only or quick or plots is not None:
            raise ValueError("--only, --quick and --plots go with --all")
        max_tokens = max_tokens or 64
        if check and named != Pair():
            raise ValueError("--check measures the pairs of its goals; leave out the flags that name another")
        if check and temperature:
            raise ValueError("--check measures at temperature 0; leave out --temperature")
        policies = chosen(policy or (GOAL_POLICIES if check else None))
        count = count or (4 if check else 8)
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        if json is not None:
            check_writable(json)
        console = stdout()
        console.print(describe_machine())
        tasks = [Task(prompts, max_tokens, degree, seed) for degree in temperature or [0.0]]
        measured: dict[Pair, dict[str, Sums]] = {}
        runs: list[dict[str, Any]] = []
        for pair in GOAL_PAIRS if check else [named]:
            for task, results, traces in _measure(pair, policies, tasks, traced if json is not None else 0):
                measured.setdefault(pair, results)  # of the first temperature
                runs.append(_run_json(pair, task, results, traces))
                _show(console, pair, task, results)
        rows = judge(figures(measured), read_goals("decode"), {}) if check else []
        if json is not None:
            asked = {"count": count, "max_tokens": max_tokens, "seed": seed, "check": check}
            write_json(json, "decode", rows, options={**named.options(), **asked}, data={"runs": runs})
    if check:
        conclude(console, rows, quick=False, check=True)


def _measure(
    pair: Pair, policies: Policies, tasks: Sequence[Task], traced: int
) -> list[tuple[Task, dict[str, Sums], dict[str, list[Done]]]]:
    with clients(pair, policies) as served, Console(stderr=True).status("measuring") as status:
        return [
            (task, run(served, policies, task, status.update), trace(served, policies, task, traced)) for task in tasks
        ]


def _show(console: Console, pair: Pair, task: Task, results: Mapping[str, Sums]) -> None:
    console.print(
        f"\n{pair}; {len(task.prompts)} prompts, {task.max_tokens} tokens each, temperature {task.temperature:g}"
    )
    for table in (policy_table(results), dataset_table(results), round_table(results)):
        console.print(table)


def _run_json(
    pair: Pair, task: Task, results: Mapping[str, Sums], traces: Mapping[str, Sequence[Done]]
) -> dict[str, Any]:
    return {
        "pair": pair.options(),
        "temperature": task.temperature,
        "max_tokens": task.max_tokens,
        "policies": {name: [_done_json(done) for done in sums.done] for name, sums in results.items()},
        "traces": {name: [[to_plain(each) for each in one.rounds] for one in done] for name, done in traces.items()},
    }


def _done_json(done: Done) -> dict[str, Any]:
    prompt: Prompt = done.prompt
    return {
        "dataset": prompt.dataset,
        "prompt": prompt.name,
        "tokens": done.finish.usage.completion_tokens,
        "tokens_per_second": done.speed,
        "speculation": to_plain(done.finish.speculation),
    }
