"""`python -m bench peers`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import pair as flags
from bench.goals import judge, read_goals
from bench.machine import describe_machine
from bench.pair import Pair
from bench.peers.comparison import compare
from bench.peers.figures import figures
from bench.peers.names import DEFAULT_POLICIES, DRAFT_WEIGHTS, MANY
from bench.peers.options import Options, check_pair
from bench.peers.prompts import spread
from bench.peers.record import plain
from bench.peers.tables import load_table, missing_table
from bench.prompts import BUNDLED
from bench.record import check_writable, write_json
from bench.terminal import conclude, one_line_errors, stdout

_WEIGHTS = f"Measure a quantised draft, too: {', '.join(DRAFT_WEIGHTS[1:])}; full measures none."


def peers(
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts of one stream, taken from the files in turn.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions, each in an order drawn anew.")] = 3,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help=f"Prompts at once; may be repeated. 1 and {MANY} if unset.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help=f"Of Tandem, besides off; {', '.join(map(repr, DEFAULT_POLICIES))} if unset; repeatable."),
    ] = None,
    target_gguf: Annotated[str | None, typer.Option(metavar="FILE", help="Target of llama.cpp.")] = None,
    draft_gguf: Annotated[str | None, typer.Option(metavar="FILE", help="Draft of llama.cpp.")] = None,
    eagle_head: Annotated[str | None, typer.Option(metavar="MODEL", help="EAGLE-3 head for vLLM and SGLang.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A rough answer: few prompts and tokens, once.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a figure falls short of its goal.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: Annotated[str, typer.Option(help=_WEIGHTS)] = "full",
    threads: flags.Threads = None,
) -> None:
    """Tandem beside what an engineer has today: transformers' generate, and vLLM, SGLang and llama.cpp where installed.

    The same prompts, models, type and threads; temperature 0; tokens per second of whole calls, prompts included.
    """
    with one_line_errors():
        pair = Pair(target_model, draft_model, dtype, draft_weights, threads=threads)
        options = Options(
            data=tuple(data or BUNDLED), count=count, max_tokens=max_tokens, repeat=repeat,
            clients=tuple(sorted(set(clients or (1, MANY)))), policies=tuple(policy or DEFAULT_POLICIES),
            target_gguf=target_gguf, draft_gguf=draft_gguf, eagle_head=eagle_head, seed=seed,
        )  # fmt: skip
        options = options.quick() if quick else options
        check_pair(pair)
        questions = spread(options.data, max(options.count, *options.clients))
        goals = read_goals("peers")
        if json is not None:
            check_writable(json)
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; {options.max_tokens} tokens of each prompt; a call counts whole, its prompt included\n")
        results, tokenizer = compare(pair, options, questions, Console(stderr=True))
        for number in options.clients:
            console.print("one stream" if number == 1 else f"{number} prompts at once, together")
            console.print(load_table(results, number, tokenizer.decode))
            console.print()
        if results.absent or results.failed:
            console.print(missing_table(results))
            console.print()
        rows = judge(figures(results, pair), goals, {})
        if json is not None:
            given = pair.options() | asdict(options) | {"data": list(map(str, options.data))}
            write_json(json, "peers", rows, quick=quick, options=given, data=plain(results, tokenizer.decode))
    conclude(console, rows, quick=quick, check=check)
