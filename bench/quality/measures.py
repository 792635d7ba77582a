"""What answers are measured by, each with its interval of 95 % and its difference from the target's alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.intervals import Interval, bootstrap, paired_difference, share
from bench.policies import ALONE
from bench.quality.run import Answer

GSM8K, HUMANEVAL = "gsm8k exact answer", "humaneval pass@1"
#: Shares of right answers; their intervals are Wilson's.
_SHARES = (GSM8K, HUMANEVAL)
LET_THROUGH = "let through"
# With fewer prompts no difference is beyond noise: all of five have the same sign in one case out of sixteen.
_LEAST_PROMPTS = 6


def _is_right(dataset: str) -> Callable[[Answer], float | None]:
    def measure(answer: Answer) -> float | None:
        is_measured = answer.prompt.dataset == dataset and answer.is_right is not None
        return float(bool(answer.is_right)) if is_measured else None

    return measure


def _let_through(answer: Answer) -> float:
    finish = answer.completion.finish
    return finish.speculation.lossy_tokens / finish.usage.completion_tokens


#: Each gives the value of one answer, None where it has none.
#:
#: negative log-likelihood: of what was emitted, its end token included, in nats per token under the target, which is
#:   fed the text. At temperature 0 under the softmax at temperature 1, otherwise under the request's temperature.
#: agreement with greedy: share of the emitted tokens that are the target's likeliest after the text before them, fed
#:   likewise. Of the target alone at temperature 0 it is 1 in float32.
#: let through: share of the emitted tokens that only the distance accepted.
MEASURES: Mapping[str, Callable[[Answer], float | None]] = {
    GSM8K: _is_right("gsm8k"),
    HUMANEVAL: _is_right("humaneval"),
    "negative log-likelihood": lambda answer: answer.score.negative_log_likelihood,
    "agreement with greedy": lambda answer: answer.score.agreement,
    LET_THROUGH: _let_through,
}

#: Of a policy: by measure, a value for each prompt that the measure has one for, in their order.
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A policy by one measure. against_alone: its values less the target's alone, prompt by prompt; None for the
    target alone, and for tokens let through, of which it has none. within_noise: whether that interval holds 0; None
    without one, and from too few prompts to tell."""

    prompts: int
    interval: Interval
    against_alone: Interval | None
    within_noise: bool | None

    def as_json(self) -> dict[str, Any]:
        difference = self.against_alone
        return {
            **asdict(self.interval),
            "against_alone": asdict(difference) if difference else None,
            "within_noise": self.within_noise,
        }


def values_of(answers: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, list[float]]]:
    """By policy and measure. Measures without a value are left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, given in answers.items():
        columns = {measure: [of(one) for one in given] for measure, of in MEASURES.items()}
        kept = {measure: [value for value in column if value is not None] for measure, column in columns.items()}
        found[name] = {measure: column for measure, column in kept.items() if column}
    return found


def estimates(values: Mapping[str, Values]) -> dict[str, dict[str, Estimate]]:
    """By policy and measure."""
    alone = values[ALONE]
    return {
        name: {
            measure: _estimate(measure, column, alone[measure] if name != ALONE else None)
            for measure, column in columns.items()
        }
        for name, columns in values.items()
    }


def _estimate(measure: str, values: Sequence[float], alone: Sequence[float] | None) -> Estimate:
    interval = share(round(sum(values)), len(values)) if measure in _SHARES else bootstrap(values)
    if alone is None or measure == LET_THROUGH:
        return Estimate(len(values), interval, None, None)
    difference = paired_difference(values, alone)
    return Estimate(
        len(values), interval, difference, difference.holds(0) if len(values) >= _LEAST_PROMPTS else None
    )
