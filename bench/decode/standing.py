"""How a method did: from its completions to the figures of its row.

Methods with other drafters run in other services, at another time. Each is compared with the target alone in its own
services, where the two take turns prompt by prompt. A ratio to vanilla across services is one of such ratios, so that
what the machine does meanwhile falls out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from bench.intervals import Interval, bootstrap, geometric_mean
from bench.plots.forms.methods import MethodRow, MethodsRun
from bench.policies import ALONE, VANILLA


@dataclass(frozen=True, slots=True)
class Standing:
    """Ratios are of tokens per second, geometric means prompt by prompt; None where no prompt has both sides.

    acceptance_length: tokens of a mean round, the target's own one included; None without rounds. lossy_share: of the
    text, tokens that only the lossy rule let through. as_alone: share of the text before the first token that is
    another than in the target's own text; None above temperature 0. prompts: that were completed.
    """

    prompts: int
    tokens_per_second: float | None
    over_alone: Interval | None
    over_vanilla: Interval | None
    acceptance_length: float | None
    lossy_share: float | None
    as_alone: float | None


def standing(run: MethodsRun, row: MethodRow) -> Standing:
    """Of a row of the run, a baseline or another."""
    speeds = _speeds(row)
    own = _relative(run, row)
    vanilla = next((each for each in run.baselines if each.name == VANILLA), None)
    reports = [each.speculation for each in row.completions]
    steps, tokens = sum(each.verify_steps for each in reports), sum(each.tokens for each in row.completions)
    accepted, lossy = sum(each.accepted_tokens for each in reports), sum(each.lossy_tokens for each in reports)
    compared = [each for each in row.completions if each.as_alone is not None]
    return Standing(
        prompts=len(row.completions),
        tokens_per_second=geometric_mean(list(speeds.values())) if speeds else None,
        over_alone=_mean(own),
        over_vanilla=_mean(_ratios(own, _relative(run, vanilla))) if vanilla else None,
        acceptance_length=1 + accepted / steps if steps else None,
        lossy_share=lossy / tokens if tokens else None,
        as_alone=sum(each.as_alone or 0 for each in compared) / sum(each.tokens for each in compared)
        if compared
        else None,
    )


def _relative(run: MethodsRun, row: MethodRow) -> dict[int, float]:
    """Speed over that of the target alone in the same services, by prompt."""
    alone = next((each for each in run.baselines if (each.name, each.setup) == (ALONE, row.setup)), None)
    return _ratios(_speeds(row), _speeds(alone)) if alone else {}


def _speeds(row: MethodRow) -> dict[int, float]:
    """By prompt. A completion of one token has no speed."""
    return {each.prompt: each.tokens_per_second for each in row.completions if each.tokens_per_second > 0}


def _ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    return {prompt: ours[prompt] / theirs[prompt] for prompt in ours.keys() & theirs.keys()}


def _mean(ratios: Mapping[int, float]) -> Interval | None:
    return _interval(tuple(ratios[prompt] for prompt in sorted(ratios))) if ratios else None


@cache  # the same ones stand in tables, in the picture and on the page
def _interval(ratios: tuple[float, ...]) -> Interval:
    return bootstrap(ratios, geometric_mean)
