"""What speed becomes as one thing changes: the wire, the cost of the draft's step, or how often the draft is right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from bench.overlap.costs import Costs
from bench.overlap.figures import Measured
from bench.overlap.recording import Recording
from bench.overlap.run import best
from bench.overlap.sweep import sweep

WIRES: Sequence[float] = (0.0, 0.5, 2.0, 10.0, 40.0)
DRAFT_STEPS: Sequence[float] = (1.0, 2.0, 4.0)
#: Those that are drawn on paper: branches of branches take as long to work out as all others, and are no faster.
POLICIES: Sequence[str] = ("no look-ahead", "main line only", "SSD's fan-out", "likeliest outcomes")


@dataclass(frozen=True, slots=True)
class Curves:
    """One panel of a picture. speeds: tokens per second by policy, each a list of points (x, speed). bounds: the best
    that a draft and a wire that cost nothing could give, at each x."""

    title: str
    speeds: Mapping[str, Sequence[tuple[float, float]]]
    bounds: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A picture. name: for its file. label: of what changes, with its unit."""

    name: str
    title: str
    label: str
    caption: str
    panels: Sequence[Curves]


_WIRE = "wire to the draft, one way (ms)"
_ON_PAPER = "Worked out from the recordings; each policy at the lengths that serve it best."


def on_paper(recordings: Mapping[str, Recording], wire: float, *, texts: int, tokens: int) -> Iterator[Sweep]:
    """recordings: by the panel's title. wire: one way in ms, where something else changes."""

    @cache
    def speeds(title: str, costs: Costs) -> tuple[Mapping[str, float], float]:
        """By policy, and the bound."""
        rows = list(sweep(recordings[title], [costs.wire], texts=texts, tokens=tokens, costs=costs, names=POLICIES))
        return {policy: played.speed for _, policy, _, played, _ in rows}, rows[0][-1].speed

    def curves(title: str, points: Iterable[tuple[float, str, Costs]]) -> Curves:
        """points: x, the recording, and what its replay costs."""
        found = [(x, *speeds(recording, costs)) for x, recording, costs in points]
        return Curves(
            title,
            {policy: [(x, by_policy[policy]) for x, by_policy, _ in found] for policy in POLICIES},
            [(x, bound) for x, _, bound in found],
        )

    panels = [curves(title, [(each, title, Costs(wire=each)) for each in WIRES]) for title in recordings]
    yield Sweep("overlap-wire-paper", "Speed by the draft's wire, on paper", _WIRE, _ON_PAPER, panels)
    panels = [
        curves(title, [(each, title, Costs(wire=wire, draft=each)) for each in DRAFT_STEPS]) for title in recordings
    ]
    caption = f"{_ON_PAPER} The target's step takes {Costs().target:g} ms, the wire {wire:g} ms one way."
    yield Sweep(
        "overlap-cost-paper", "Speed by the cost of the draft, on paper", "step of the draft (ms)", caption, panels
    )
    ordered = sorted(recordings, key=lambda title: recordings[title].agreement)
    panel = curves(f"wire {wire:g} ms", [(recordings[title].agreement, title, Costs(wire=wire)) for title in ordered])
    pairs = "; ".join(" ".join(title.split()) for title in ordered)
    caption = f"{_ON_PAPER} A point for each pair, from left to right: {pairs}."
    label = "tokens that the draft says too (share of the target's)"
    yield Sweep("overlap-acceptance-paper", "Speed by how often the draft is right, on paper", label, caption, [panel])


def live(measured: Measured, names: Mapping[str, str]) -> Sweep | None:
    """By the wire, of the pairs that were measured over several; None where there is none. names: of drafts."""
    panels = []
    for (draft, temperature), bound in measured.bounds.items():
        over = {
            wire: sides
            for (each, at, wire), sides in sorted(measured.sides.items(), key=lambda one: one[0][2])
            if (each, at) == (draft, temperature)
        }
        if len(over) < 2:
            continue
        ways = dict.fromkeys(way for sides in over.values() for way, _ in sides)
        speeds = {way: [(wire, best(sides, way)[1].speed) for wire, sides in over.items()] for way in ways}
        title = f"draft {names[draft]}\ntemperature {temperature:g}"
        panels.append(Curves(title, speeds, [(wire, bound.speed) for wire in over]))
    caption = (
        "Services replayed the recordings at set times; each way to draft at the fixed length that serves it best."
    )
    return Sweep("overlap-wire", "Speed by the draft's wire, measured", _WIRE, caption, panels) if panels else None
