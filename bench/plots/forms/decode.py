"""What `bench decode` keeps: completions of each policy, and the accounts of their rounds."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from bench.pair import Pair
from bench.plots.forms.base import Form
from bench.plots.forms.pairs import titles
from bench.policies import ALONE


class RoundTime(Form):
    """Parts of a round, in microseconds."""

    draft_queue_microseconds: int = 0
    draft_compute_microseconds: int = 0
    draft_wire_microseconds: int = 0
    target_queue_microseconds: int = 0
    target_compute_microseconds: int = 0
    target_wire_microseconds: int = 0
    orchestrator_microseconds: int = 0


class TimeReport(Form):
    rounds: RoundTime = RoundTime()


class Speculation(Form):
    """Of tandem.v1.SpeculationReport."""

    verify_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = []
    lossy_tokens: int = 0
    plain_tokens: int = 0
    time: TimeReport = TimeReport()


class Completion(Form):
    dataset: str
    tokens: int
    tokens_per_second: float
    speculation: Speculation


class Round(Form):
    """Of tandem.v1.RoundAccount. None stands for what was not finite."""

    round: int
    drafted: int = 0
    kept: int = 0
    draft_entropies: list[float | None] = []
    distances: list[float | None] = []
    thresholds: dict[str, float | None] = {}


class DecodeRun(Form):
    """Completions of the policies are in the same order of prompts; traces have a list of rounds for each prompt that
    was traced. pair: None where it is the document's."""

    pair: Pair | None = None
    temperature: float
    max_tokens: int
    policies: dict[str, list[Completion]]
    traces: dict[str, list[list[Round]]] = {}

    @model_validator(mode="after")
    def _is_paired(self) -> Self:
        if len({tuple(each.dataset for each in completions) for completions in self.policies.values()}) > 1:
            raise ValueError("the policies did not complete the same prompts")
        return self

    @property
    def speculating(self) -> list[str]:
        return [name for name in self.policies if name != ALONE]


class DecodeData(Form):
    runs: list[DecodeRun]

    @property
    def titles(self) -> list[str]:
        """Of the runs."""
        return titles((run.pair, run.temperature) for run in self.runs)
