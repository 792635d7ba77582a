"""What the sides' speeds come to: the figures that have goals, and how many texts are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.goals import Figure
from bench.intervals import geometric_mean, paired_ratio
from bench.pair import Pair
from bench.peers.names import (
    ASSISTED,
    FULL,
    MANY,
    OURS,
    OVER_ASSISTED,
    OVER_ASSISTED_8,
    OVER_ASSISTED_FULL,
    OVER_OFF_8,
    PLAIN,
    tandem_name,
)
from bench.peers.run import Measured, Results
from bench.peers.tandem_side import TandemSide
from bench.policies import ALONE
from bench.repetition import quartiles, ratios

_NO_POLICY = "no lossless policy that speculates was measured"


def figures(results: Results, pair: Pair) -> Iterator[Figure]:
    """One for each goal. pair: with the draft's weights as they were asked for."""
    bench = _Bench(results, pair)
    quantised = pair.draft_weights
    if quantised == FULL:
        rough = bench.over(OVER_ASSISTED, 1, FULL, ASSISTED).measured
        yield Figure.skipped(OVER_ASSISTED, "it takes --draft-weights int8 or int4; this is the full draft's", rough)
    else:
        yield bench.over(OVER_ASSISTED, 1, quantised, ASSISTED)
    if pair.dtype == "bfloat16":
        yield bench.over(OVER_ASSISTED_FULL, 1, FULL, ASSISTED)
    else:
        yield Figure.skipped(OVER_ASSISTED_FULL, f"its goal is for bfloat16, and --dtype is {pair.dtype}")
    yield bench.over(OVER_ASSISTED_8, MANY, quantised, ASSISTED)
    yield bench.over(OVER_OFF_8, MANY, quantised, tandem_name(ALONE))


def equal_texts(
    results: Results, clients: int, side: str, decode: Callable[[list[int]], str]
) -> tuple[int, int] | None:
    """How many texts are plain transformers' own, of how many; None where there is nothing to compare."""
    ours, plain = results.find(clients, side), results.find(clients, PLAIN)
    if ours is None or plain is None:
        return None
    same = 0
    for answer, reference in zip(ours.answers, plain.answers, strict=True):
        if answer.ids is not None:
            same += answer.ids == reference.ids
        else:
            same += answer.text == decode(list(reference.ids or ()))
    return same, len(ours.answers)


@dataclass(frozen=True, slots=True)
class _Bench:
    results: Results
    pair: Pair

    def over(self, name: str, clients: int, draft_weights: str, peer: str) -> Figure:
        """The fastest lossless policy with such a draft over `peer`, by geometric means."""
        if clients not in self.results.measured:
            return Figure.skipped(name, f"it takes --clients {clients}")
        theirs = self.results.find(clients, peer)
        if theirs is None:
            return self._without(name, [peer])
        ours = self._best(clients, draft_weights)
        if ours is None:
            return self._without(name, [side for side in self.results.failed if side.startswith(OURS)])
        interval = paired_ratio(ours.speeds, theirs.speeds)
        fast, slow = geometric_mean(ours.speeds), geometric_mean(theirs.speeds)
        note = f"{ours.side.name} {fast:.1f} tokens/s against {slow:.1f}; interval of 95 % {interval}"
        # Against ourselves: a policy that finds that nothing pays is as fast, and noise must not make it short.
        judged = interval if theirs.side.name.startswith(OURS) else None
        return Figure(name, interval.middle, quartiles(ratios(ours.speeds, theirs.speeds)), note, interval=judged)

    def _without(self, name: str, sides: Sequence[str]) -> Figure:
        """Failed where one of the sides that it takes has, skipped where they were not asked for."""
        if failed := [f"{side}: {why}" for side in sides if (why := self.results.failed.get(side))]:
            return Figure.failed(name, failed[0])
        absent = [f"{side}: {why}" for side in sides if (why := self.results.absent.get(side))]
        return Figure.skipped(name, absent[0] if absent else _NO_POLICY)

    def _best(self, clients: int, draft_weights: str) -> Measured | None:
        candidates = [
            measured
            for measured in self.results.measured[clients].values()
            if isinstance(side := measured.side, TandemSide)
            and side.lossless
            and side.speculates
            and side.draft_weights == draft_weights
        ]
        return max(candidates, key=lambda measured: geometric_mean(measured.speeds), default=None)
