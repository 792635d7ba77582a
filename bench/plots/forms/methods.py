"""What `bench decode --all` keeps: completions by each method, and of the target alone in the same services."""

from __future__ import annotations

from pydantic import model_validator

from bench.pair import Pair
from bench.plots.forms.base import Form
from bench.plots.forms.decode import Speculation
from bench.plots.forms.pairs import titles


class MethodCompletion(Form):
    """prompt: which one of the run's, from 0. as_alone: tokens before the first that is another than in the target's
    own text; None above temperature 0, and where that text was not made."""

    prompt: int
    dataset: str
    tokens: int
    tokens_per_second: float
    as_alone: int | None = None
    speculation: Speculation


class MethodRow(Form):
    """setup: name of the services that served it. lossy: whether a rule was in force that can change the law of the
    text. completions: none where it was not measured; why: then, and where not all prompts were, the reason if there is
    one beyond that the run was ended."""

    kind: str
    name: str
    setup: str
    lossy: bool = False
    completions: list[MethodCompletion] = []
    why: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


class MethodsRun(Form):
    """baselines: the target alone in each setup, and vanilla in that of the pair as it is."""

    pair: Pair
    temperature: float
    max_tokens: int
    baselines: list[MethodRow]
    rows: list[MethodRow]

    @model_validator(mode="after")
    def _has_no_row_twice(self) -> MethodsRun:
        keys = [(row.key, row.setup) for row in (*self.baselines, *self.rows)]
        if len(set(keys)) < len(keys):
            raise ValueError("a method has two rows")
        return self


class MethodsData(Form):
    runs: list[MethodsRun]

    @property
    def titles(self) -> list[str]:
        """Of the runs."""
        return titles((run.pair, run.temperature) for run in self.runs)
