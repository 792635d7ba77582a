"""Between the command's flags and its rows. Imports torch only once the flags are known to be usable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.engine.figures import WITHOUT_GOAL, Group, figures_of
from bench.goals import Figure, Row, judge, read_goals
from bench.machine import keep_freed_memory
from tandem.cli.errors import CliError
from tandem.serving import prepare_for_models


@dataclass(frozen=True, slots=True)
class Options:
    """only: groups to measure, all if empty. soak: minutes; None skips it. threads: of each side."""

    only: Sequence[Group] = ()
    quick: bool = False
    soak: float | None = None
    seed: int = 0
    model: str = "embedded:smollm2"
    threads: int = 2

    def __post_init__(self) -> None:
        """Raises CliError for flags that do not go together."""
        if self.soak is None and list(self.groups) == [Group.SOAK]:
            raise CliError("--only soak needs --soak MINUTES")
        if self.soak is not None and Group.SOAK not in self.groups:
            raise CliError("--soak is for the group soak, which --only leaves out")

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(group for group in Group if group in (self.only or Group))


def measured(options: Options, say: Callable[[Figure], None]) -> list[Row]:
    """All figures beside their goals. say: told each one as soon as it is there.

    Raises GoalsError before anything is measured, and ModelError or TokenizationError for a model that cannot be had.
    """
    wanted = figures_of(options.groups)
    goals = {name: goal for name, goal in read_goals("engine").items() if name in wanted}
    return judge(measure(options, say), goals, WITHOUT_GOAL)


def measure(options: Options, say: Callable[[Figure], None]) -> list[Figure]:
    """The figures of all groups that were asked for."""
    environment = dict(os.environ)
    prepare_for_models()
    keep_freed_memory()
    from bench.engine.models import Models
    from bench.engine.run import measures, run
    from bench.engine.scale import FULL, QUICK

    by_group = measures(options.soak)
    chosen = {group: by_group[group] for group in options.groups}
    models = Models(options.model, options.threads, environment)
    return asyncio.run(run(models, chosen, QUICK if options.quick else FULL, options.seed, say))
