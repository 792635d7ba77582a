"""All sides of a comparison: which there are, what runs them, and in which order they are measured."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from types import ModuleType

from rich.console import Console

from bench.pair import Pair, running
from bench.peers import llama_cpp, sglang, vllm
from bench.peers.names import ASSISTED, FIXED, FULL
from bench.peers.options import LOOKS_UP, Options
from bench.peers.prompts import Openings, encode
from bench.peers.run import Load, Plan, Results, measure
from bench.peers.servers import Server, Setup, started
from bench.peers.side import Side, SideError
from bench.peers.tandem_side import TandemSide
from bench.policies import ALONE, chosen
from bench.prompts import Prompt
from bench.rig import resolve_rig
from tandem.cli.signals import termination_unwinds
from tandem.models import resolve
from tandem.tokenization import Tokenizer

_OTHERS: tuple[ModuleType, ...] = (vllm, sglang, llama_cpp)
# Tokens in front of a prompt, and to spare.
_ROOM = 64


def compare(
    pair: Pair, options: Options, questions: Sequence[Prompt], console: Console
) -> tuple[Results, Tokenizer]:
    """Measures all sides. questions: as many as there are callers at once, at least. console: where progress is
    shown, if it is a terminal.

    Raises CliError, ModelError, TokenizationError or ValueError.
    """
    environment = dict(os.environ)
    target = resolve(resolve_rig(pair.target_model), None).path
    draft = None if pair.draft_model == LOOKS_UP else str(resolve(resolve_rig(pair.draft_model), None).path)
    tokenizer = Tokenizer.from_folder(target)
    prompts = [encode(question, tokenizer) for question in questions]
    results = Results()
    if draft is None:
        results.absent |= dict.fromkeys((ASSISTED, FIXED), f"{LOOKS_UP} is no model to assist with")
    setup = Setup(
        str(target), draft, pair.dtype, pair.threads,
        max(map(len, prompts)) + options.max_tokens + _ROOM, max(options.clients),
        options.eagle_head, options.target_gguf, options.draft_gguf,
    )  # fmt: skip
    servers = _installed(setup, results)
    most_sides = len(servers) + 4 + 2 * (1 + len(options.policies))
    plan = Plan(
        [Load(number, prompts[: options.count if number == 1 else number]) for number in options.clients],
        options.max_tokens,
        options.repeat,
        Openings(tokenizer, most_sides * options.repeat * len(options.clients)),
        random.Random(options.seed),
    )
    with termination_unwinds():
        # Each with the machine to itself: servers take a GPU's memory for good, and some spin while they wait.
        threads = {} if pair.threads is None else {"OMP_NUM_THREADS": str(pair.threads)}
        for server in servers:
            with console.status(f"starting {server.name}") as status:
                asyncio.run(_measure_server(server, environment | threads, plan, results, status.update))
        _measure_here(pair, options, plan, results, environment, console)
    return results, tokenizer


def _measure_here(
    pair: Pair, options: Options, plan: Plan, results: Results, environment: Mapping[str, str], console: Console
) -> None:
    """Transformers and Tandem, which wait asleep while others are measured."""
    from bench.peers.transformers_side import TransformersProcess  # with torch

    with ExitStack() as stack:
        draft = None if pair.draft_model == LOOKS_UP else pair.draft_model
        process = stack.enter_context(closing(TransformersProcess(pair, draft, environment)))
        with console.status("loading the models of transformers"):
            # First: on a GPU Tandem's services take for their caches what memory is left.
            sides: list[Side] = [*asyncio.run(process.sides())]
        calls = stack.enter_context(ThreadPoolExecutor(max(options.clients)))
        sides += _tandem_sides(pair, options, calls, stack)
        with console.status("measuring") as status:
            asyncio.run(measure(sides, plan, results, status.update))


def _installed(setup: Setup, results: Results) -> list[Server]:
    servers: list[Server] = []
    for other in _OTHERS:
        if why := other.absent(setup):
            results.absent[other.NAME] = why
        else:
            servers += other.servers(setup)
    return servers


def _tandem_sides(pair: Pair, options: Options, calls: ThreadPoolExecutor, stack: ExitStack) -> list[TandemSide]:
    """Of services with the full draft, and of others with the quantised one, where it is asked for. Those that wait
    sleep. The target alone is the same with either, and is measured once."""
    sides: list[TandemSide] = []
    for weights in dict.fromkeys((FULL, pair.draft_weights)):
        client = stack.enter_context(running(replace(pair, draft_weights=weights)))
        sides += [
            TandemSide(name, policy, client, weights, calls)
            for name, policy in chosen(list(options.policies)).items()
            if weights == FULL or name != ALONE
        ]
    return sides


async def _measure_server(
    server: Server, environment: Mapping[str, str], plan: Plan, results: Results, say: Callable[[str], None]
) -> None:
    try:
        async with started(server, environment) as side:
            await measure([side], plan, results, say)
    except SideError as error:
        results.failed[server.name] = str(error)
        for measured in results.measured.values():
            measured.pop(server.name, None)
