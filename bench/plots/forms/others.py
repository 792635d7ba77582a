"""What `bench quality` and `bench peers` keep, and the figures with goals that any bench may have."""

from __future__ import annotations

from bench.intervals import Interval
from bench.plots.forms.base import Form


class Measure(Form):
    """against_alone: the difference from the target alone."""

    low: float
    middle: float
    high: float
    against_alone: Interval | None = None
    within_noise: bool | None = None

    @property
    def interval(self) -> Interval:
        return Interval(self.low, self.middle, self.high)


class Measures(Form):
    measures: dict[str, Measure]


class Check(Form):
    """Whether a policy that promises the target's text, or its law, kept the promise. holds: None where the check says
    nothing."""

    policy: str
    what: str
    found: str
    holds: bool | None = None


class QualityRun(Form):
    """One temperature."""

    temperature: float
    policies: dict[str, Measures]
    lossless: list[Check] = []


class QualityData(QualityRun):
    """not_measured: why, by measure."""

    other_temperatures: list[QualityRun] = []
    not_measured: dict[str, str] = {}

    @property
    def runs(self) -> list[QualityRun]:
        return [self, *self.other_temperatures]


class Side(Form):
    """tokens_per_second: of each repetition. equal_texts: how many are plain transformers' own, of how many."""

    tokens_per_second: list[float]
    equal_texts: tuple[int, int] | None = None
    note: str = ""


class PeersData(Form):
    """sides: by name and number of clients. not_measured: why, by side."""

    sides: dict[str, dict[str, Side]]
    not_measured: dict[str, str] = {}
    versions: dict[str, str] = {}


class RowForm(Form):
    """A figure, beside its goal where it has one."""

    name: str
    what: str = ""
    measured: float | None = None
    spread: tuple[float, float] | None = None
    goal: float | None = None
    direction: str | None = None
    verdict: str | None = None
    outcome: str = ""
    note: str = ""
