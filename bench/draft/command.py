"""`python -m bench draft`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import pair as flags
from bench.draft.metrics import Metrics, read_metrics
from bench.draft.parts import Part, left_out
from bench.goals import Figure, judge, read_goals
from bench.machine import describe_machine
from bench.pair import Pair
from bench.prompts import BUNDLED, Prompt, read_prompts
from bench.record import check_writable, write_json
from bench.rig import resolve_rig
from bench.terminal import conclude, one_line_errors, stdout
from tandem.cli.errors import CliError
from tandem.models import resolve
from tandem.serving import prepare_for_models

_NO_MODELS = ("none", "prompt-lookup")


def draft(
    data: flags.Data = None,
    count: Annotated[int | None, typer.Option(min=1, help="Most prompts of each file. [20; --quick 2]")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Most tokens of an answer. [128; --quick 32; for speeds half of it]")
    ] = None,
    only: Annotated[list[Part] | None, typer.Option(help="Measure this part alone; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling and of the order.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer, from a few prompts.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "auto",
    threads: flags.Threads = None,
) -> None:
    """How well a draft says what its target would, what a step of it costs, and what the pair gains.

    \b
    agreement  along the target's greedy text, how often the draft's likeliest token is the same; along a text that
               the target sampled at temperature 1, 1 - TV of both distributions; what a round of candidates gives
    step       a step of the draft with the drawing of its candidate over a step of the target, one caller
    speed      the pair in its services, by the best lossless policy, over the target alone in the same engine

    Goals are for a draft made on a CPU or on a GPU (bench/goals.toml); metrics.json beside the draft says which.
    """
    with one_line_errors():
        if draft_model in _NO_MODELS:
            raise CliError(f"--draft-model {draft_model}: this bench is about a draft that is a model")
        count, max_tokens = count or (2 if quick else 20), max_tokens or (32 if quick else 128)
        by_file = [read_prompts(path, count) for path in data or BUNDLED]
        if json is not None:
            check_writable(json)
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads)
        metrics = read_metrics(resolve(resolve_rig(draft_model)).path)
        goals = read_goals(f"draft-{metrics.made_on}")
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; goals of a draft made on a {metrics.made_on.upper()}")
        parts = tuple(part for part in Part if part in (only or Part))
        figures, record = _measured(console, pair, parts, by_file, max_tokens, seed, quick)
        _show_curve(console, metrics)
        rows = judge(figures, goals, {})
        if json is not None:
            asked = {"count": count, "max_tokens": max_tokens, "seed": seed, "made_on": metrics.made_on}
            record["curve"] = [point.model_dump() for point in metrics.curve]
            write_json(json, "draft", rows, quick=quick, options={**pair.options(), **asked}, data=record)
    conclude(console, rows, quick=quick, check=check)


def _measured(
    console: Console,
    pair: Pair,
    parts: Sequence[Part],
    by_file: Sequence[Sequence[Prompt]],
    max_tokens: int,
    seed: int,
    quick: bool,
) -> tuple[list[Figure], dict[str, Any]]:
    """All figures, and what they were made of."""
    prepare_for_models()
    from bench.decode.tables import policy_table
    from bench.draft import figures as made
    from bench.draft.run import FULL, QUICK, InProcess, speeds
    from bench.draft.tables import agreement_table, step_table

    scale = QUICK if quick else FULL
    found: list[Figure] = list(left_out(parts))
    record: dict[str, Any] = {}
    with Console(stderr=True).status("loading the models") as status:
        # First, while this process has no models: it would take the services' cores and memory.
        if Part.SPEED in parts:
            prompts = [prompt for prompts in by_file for prompt in prompts[: scale.speed_prompts]]
            measured = speeds(pair, prompts, max(2, max_tokens // 2), seed, status.update)
            found += made.speed_figures(measured)
            for degree, results in measured.items():
                console.print(f"\n{len(prompts)} prompts, {max_tokens // 2} tokens each, temperature {degree:g}")
                console.print(policy_table(results))
            record["speeds"] = [
                {"temperature": degree, "tokens_per_second": {name: sums.speeds for name, sums in results.items()}}
                for degree, results in measured.items()
            ]
        if {Part.AGREEMENT, Part.STEP} & set(parts):
            models = InProcess(pair)
        if Part.AGREEMENT in parts:
            prompts = [prompt for prompts in by_file for prompt in prompts]
            along = models.agreement(prompts, max_tokens, seed, status.update)
            found += made.agreement_figures(along)
            console.print(f"\n{len(prompts)} prompts, answers of at most {max_tokens} tokens")
            console.print(agreement_table(along))
            record["agreement"] = [
                {"dataset": each.dataset, "greedy": list(map(int, each.matches)), "one_minus_tv": list(each.overlaps)}
                for each in along
            ]
        if Part.STEP in parts:
            steps = models.steps(scale, status.update)
            found.append(made.step_figure(steps))
            console.print()
            console.print(step_table(steps))
            record["steps"] = [
                {"temperature": degree, "seconds": [[each.target, each.draft] for each in measured_steps]}
                for degree, measured_steps in steps.items()
            ]
    return found, record


def _show_curve(console: Console, metrics: Metrics) -> None:
    from bench.draft.tables import curve_table

    if metrics.curve:
        console.print("\nagreement by tokens, as the draft's metrics.json has it")
        console.print(curve_table(metrics.curve))
