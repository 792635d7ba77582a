"""What speed becomes as one thing changes: the wire, the cost of the draft's step, or how often the draft is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.overlap.costs import Costs
from bench.overlap.figures import Measured
from bench.overlap.recording import Recording
from bench.overlap.run import best
from bench.overlap.sweep import sweep

WIRES: Sequence[float] = (0.0, 0.5, 2.0, 10.0, 40.0)
DRAFT_STEPS: Sequence[float] = (1.0, 2.0, 4.0)


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


_WIRE = "wire between orchestrator and draft, one way (ms)"
_ON_PAPER = "Worked out from the recordings; each policy at the lengths that serve it best."


def on_paper(recordings: Mapping[str, Recording], wire: float, *, texts: int, tokens: int) -> Iterator[Sweep]:
    """recordings: by the panel's title. wire: one way in ms, where something else changes."""

    def curves(title: str, recording: Recording, points: Sequence[tuple[float, Costs]]) -> Curves:
        speeds: dict[str, list[tuple[float, float]]] = {}
        bounds: list[tuple[float, float]] = []
        for x, costs in points:
            rows = list(sweep(recording, [costs.wire], texts=texts, tokens=tokens, costs=costs))
            for _, policy, _, played, _ in rows:
                speeds.setdefault(policy, []).append((x, played.speed))
            bounds.append((x, rows[0][-1].speed))
        return Curves(title, speeds, bounds)

    wires = [(each, Costs(wire=each)) for each in WIRES]
    panels = [curves(title, recording, wires) for title, recording in recordings.items()]
    yield Sweep("overlap-wire-paper", "Speed by the draft's wire, on paper", _WIRE, _ON_PAPER, panels)
    steps = [(each, Costs(wire=wire, draft=each)) for each in DRAFT_STEPS]
    panels = [curves(title, recording, steps) for title, recording in recordings.items()]
    caption = f"{_ON_PAPER} The target's step takes {Costs().target:g} ms, the wire {wire:g} ms one way."
    yield Sweep(
        "overlap-cost-paper", "Speed by the cost of the draft, on paper", "step of the draft (ms)", caption, panels
    )
    ordered = sorted(recordings.items(), key=lambda each: each[1].agreement)
    found = [curves("", recording, [(recording.agreement, Costs(wire=wire))]) for _, recording in ordered]
    names = {name: [point for each in found for point in each.speeds[name]] for name in found[0].speeds}
    joined = Curves(f"wire {wire:g} ms", names, [point for each in found for point in each.bounds])
    caption = f"{_ON_PAPER} A point for each pair: {', '.join(title for title, _ in ordered)}, from left to right."
    label = "tokens that the draft says too (share of the target's)"
    yield Sweep("overlap-acceptance-paper", "Speed by how often the draft is right, on paper", label, caption, [joined])


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
        title = f"draft {names[draft]}, temperature {temperature:g}"
        panels.append(Curves(title, speeds, [(wire, bound.speed) for wire in over]))
    caption = (
        "Services replayed the recordings at set times; each way to draft at the fixed length that serves it best."
    )
    return Sweep("overlap-wire", "Speed by the draft's wire, measured", _WIRE, caption, panels) if panels else None
