"""`python -m bench reproducibility`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import pair as flags
from bench.machine import describe_machine
from bench.pair import Pair, running
from bench.prompts import BUNDLED, read_prompts
from bench.record import check_writable, write_json
from bench.reproducibility.run import Sameness, Task, is_kept, run
from bench.reproducibility.tables import sameness_table
from bench.terminal import one_line_errors, stdout

_EXACT = "float32"


def reproducibility(
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    temperature: Annotated[
        list[float] | None, typer.Option(min=0.0, help="0 is greedy; may be repeated. [0 and 1]")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="Type of both models' weights; may be repeated. [float32 and bfloat16]")
    ] = None,
    parallel: Annotated[int, typer.Option(min=2, max=64, help="Completions at once, where there are others.")] = 8,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where it is not so in float32.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first prompt.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """Whether a seed gives one text: coupled sampling against the target alone.

    Every prompt is completed by the target alone, and again with blocks of several lengths and beside other callers. In
    float32 all texts are to be equal; in bfloat16 a step's rounding depends on what else is in it, and the table says
    how often that shows.
    """
    with one_line_errors():
        prompts = [prompt for path in data or BUNDLED for prompt in read_prompts(path, count)]
        if json is not None:
            check_writable(json)
        console = stdout()
        console.print(describe_machine())
        found: list[tuple[str, float, dict[str, Sameness]]] = []
        for each in dtype or [_EXACT, "bfloat16"]:
            pair = Pair(target_model, draft_model, each, draft_weights, threads)
            with running(pair) as client, Console(stderr=True).status("measuring") as status:
                for degree in temperature or [0.0, 1.0]:
                    task = Task(prompts, max_tokens, degree, seed, parallel)
                    found.append((each, degree, run(client, task, status.update)))
                    console.print(f"\n{pair}; {len(prompts)} prompts, {max_tokens} tokens each, temperature {degree:g}")
                    console.print(sameness_table(found[-1][2]))
        if json is not None:
            asked = {"count": count, "max_tokens": max_tokens, "parallel": parallel, "seed": seed}
            options = Pair(target_model, draft_model, draft_weights=draft_weights, threads=threads).options() | asked
            del options["dtype"]  # each run says its own
            runs = [
                {"dtype": each, "temperature": degree, "ways": {name: same.as_json() for name, same in ways.items()}}
                for each, degree, ways in found
            ]
            write_json(json, "reproducibility", options=options, data={"runs": runs})
    if check and not all(is_kept(ways) for each, _, ways in found if each == _EXACT):
        raise typer.Exit(1)
