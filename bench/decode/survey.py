"""Measures all methods: sets of services one after the other, in each all of its methods in turn, prompt by prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from rich.console import Console

from bench.completions import complete
from bench.decode.methods import BASELINE, SETUPS, Method, baselines
from bench.decode.run import Done, Task
from bench.pair import Pair, running
from bench.policies import ALONE
from tandem.cli.client import Client
from tandem.cli.errors import CliError
from tandem.cli.render import to_plain
from tandem.models import ModelError
from tandem.rpc.errors import TandemError

_WARMING_TOKENS = 8


@dataclass(slots=True)
class Survey:
    """What was measured of one pair so far. tasks: the same prompts at several temperatures.

    done: by temperature, method and setup, then prompt. faults: why a method could not be measured, or no further.
    """

    pair: Pair
    tasks: Sequence[Task]
    methods: Sequence[Method]
    done: dict[tuple[float, str, str], dict[int, Done]] = field(default_factory=dict)
    faults: dict[tuple[str, str], str] = field(default_factory=dict)

    def run(self, say: Callable[[str], None] | None = None) -> None:
        """Measures everything. What ends it, Ctrl-C as well, leaves what there is. say: is told of the progress, in the
        place of a line on stderr."""
        setups = dict.fromkeys(("model", *(method.setup for method in self.methods)))
        for name in setups:
            of_setup = [*baselines(name), *(method for method in self.methods if method.setup == name)]
            try:
                with (
                    running(SETUPS[name].change(self.pair)) as client,
                    Console(stderr=True).status("warming up") as status,
                ):
                    self._measure(client, of_setup, say or status.update)
            except (CliError, ModelError) as error:
                self._note(of_setup, error)

    def _measure(self, client: Client, methods: Sequence[Method], say: Callable[[str], None]) -> None:
        order = random.Random(self.tasks[0].seed)
        for method, task in product(methods, self.tasks):  # what comes first pays for it
            self._complete(client, method, task, 0, warming=True)
        count = len(self.tasks[0].prompts)
        for index in range(count):
            say(f"{methods[0].setup}: prompt {index + 1} of {count}")
            turns = list(product(methods, self.tasks))
            for method, task in order.sample(turns, k=len(turns)):
                self._complete(client, method, task, index)

    def _complete(self, client: Client, method: Method, task: Task, index: int, *, warming: bool = False) -> None:
        """Nothing for a method that has failed before."""
        if (method.key, method.setup) in self.faults:
            return
        request = task.request(index, method.policy)
        if warming:
            request.max_tokens = min(_WARMING_TOKENS, task.max_tokens)
        try:
            found = complete(client, request)
        except TandemError as error:
            self._note([method], error)
            return
        if not warming:
            kept = self.done.setdefault((task.temperature, method.key, method.setup), {})
            kept[index] = Done(task.prompts[index], found.finish, token_ids=found.token_ids)

    def _note(self, methods: Sequence[Method], error: Exception) -> None:
        for method in methods:
            self.faults.setdefault((method.key, method.setup), str(error))

    def to_json(self) -> list[dict[str, Any]]:
        """A run for each temperature, as `bench.plots.forms.methods` reads it."""
        setups = dict.fromkeys(("model", *(method.setup for method in self.methods)))
        return [
            {
                "pair": self.pair.options(),
                "temperature": task.temperature,
                "max_tokens": task.max_tokens,
                "baselines": [self._row(task, each) for name in setups for each in baselines(name)],
                "rows": [self._row(task, method) for method in self.methods],
            }
            for task in self.tasks
        ]

    def _row(self, task: Task, method: Method) -> dict[str, Any]:
        done = self.done.get((task.temperature, method.key, method.setup), {})
        own = self.done.get((task.temperature, f"{BASELINE}/{ALONE}", method.setup), {}) if not task.temperature else {}
        return {
            "kind": method.kind,
            "name": method.name,
            "setup": method.setup,
            "lossy": any(each.finish.speculation.lossy for each in done.values()),
            "why": self.faults.get((method.key, method.setup), ""),
            "completions": [_completion(index, done[index], own.get(index)) for index in sorted(done)],
        }


def _completion(index: int, done: Done, alone: Done | None) -> dict[str, Any]:
    return {
        "prompt": index,
        "dataset": done.prompt.dataset,
        "tokens": done.finish.usage.completion_tokens,
        "tokens_per_second": done.speed,
        "as_alone": None if alone is None else same_tokens(done.token_ids, alone.token_ids),
        "speculation": to_plain(done.finish.speculation),
    }


def same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many are equal, from the first."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
