"""What is learnt where: completions that run beside each other learn together, others apart.

Costs belong to one target process, whose pace and company they are: beside it, others may be faster, or run on another
kind of device. The drafts' pace is remembered there, too: where drafts of different pace serve one target, it is their
mean, which is what is to be expected of the next one that chance names. What a candidate is worth belongs to the two
models, wherever they run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from orchestrator.look_ahead.corrections import CorrectionShares
from orchestrator.stopping.costs import Costs
from orchestrator.stopping.expectation import AcceptanceCurve
from orchestrator.stopping.goodput import Experience
from orchestrator.trees.ranks import RankAcceptance

T = TypeVar("T")

# Models, and pairs of them.
_MOST_REMEMBERED = 64


class Experiences:
    """All that one orchestrator has learnt. What belongs to a target goes with it."""

    def __init__(self) -> None:
        self._costs: WeakKeyDictionary[object, dict[object, Costs]] = WeakKeyDictionary()
        self._curves: dict[object, dict[object, AcceptanceCurve]] = {}
        self._corrections: dict[object, dict[object, CorrectionShares]] = {}
        self._ranks: dict[object, dict[object, RankAcceptance]] = {}

    def of(self, place: object, target: object, draft: object) -> Experience:
        """place: the target's process. target, draft: keys of the models."""
        costs = _remembered(self._costs.setdefault(place, {}), target, Costs)
        models = target, draft
        return Experience(
            costs,
            _remembered(self._curves, models, dict),
            _remembered(self._corrections, models, dict),
            _remembered(self._ranks, models, dict),
        )


def _remembered(known: dict[Any, T], key: object, make: Callable[[], T]) -> T:
    """Those made last: who says that it is another model each time must not fill the memory."""
    if key not in known:
        known[key] = make()
        if len(known) > _MOST_REMEMBERED:
            del known[next(iter(known))]
    return known[key]
