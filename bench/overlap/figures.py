"""The figures: speed beside what cannot be beaten and beside other ways to draft, and how much was foreseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.goals import Figure
from bench.intervals import share
from bench.overlap.live import MOST_LATE, Live
from bench.overlap.run import ADAPTIVE, AHEAD, MAIN_LINE, NONE, Bound, Sides, Sums, best
from bench.serve.records import Percentiles

#: Drafts, as the names of figures have them.
NOISE, SMALL = "noise_05", "4_layers"
#: One way, in milliseconds.
NEAR, FAR = 0.5, 10.0
#: Callers at once, and the blocks without which a 99th percentile says nothing.
CALLERS, LEAST_ASKED = 16, 300
#: Outcomes without which a hit rate that was measured live says nothing.
LEAST_OUTCOMES = 30

WITHOUT_GOAL: Mapping[str, str] = {
    "ideal_run": "services with a draft that costs nothing and no wire, at their best length, over the bound",
}


@dataclass(slots=True)
class Measured:
    """sides, bounds: one caller, by draft, temperature and delay. together: CALLERS at once, by way to draft. free: the
    sides of a draft and a wire that cost nothing, with their bound. live: the ratio rule."""

    sides: dict[tuple[str, float, float], Sides] = field(default_factory=dict)
    bounds: dict[tuple[str, float], Bound] = field(default_factory=dict)
    together: dict[str, Sums] = field(default_factory=dict)
    free: tuple[Sides, Bound] | None = None
    live: Live | None = None


def figures(measured: Measured) -> Iterable[Figure]:
    """Those of what was measured."""
    for name, draft, wire in (
        ("of_ideal_noise_05_near", NOISE, NEAR), ("of_ideal_4_layers_near", SMALL, NEAR),
        ("of_ideal_noise_05_far", NOISE, FAR),
    ):  # fmt: skip
        yield _of_ideal(measured, name, draft, wire)
    yield _over(measured, "over_none_near", NONE, NEAR)
    yield _over(measured, "over_none_far", NONE, FAR)
    yield _over(measured, "over_main_line", MAIN_LINE, NEAR)
    yield _hit_rate(measured, "hits_greedy", 0.0)
    yield _hit_rate(measured, "hits_coupled", 1.0)
    yield _hit_rate_live(measured)
    yield _asked(measured)
    if measured.free is not None:
        sides, bound = measured.free
        length, sums = best(sides, NONE)
        yield Figure("ideal_run", sums.speed / bound.speed, note=f"{sums.speed:.0f} tokens/s at {length}")


def _of_ideal(measured: Measured, name: str, draft: str, wire: float) -> Figure:
    sides, bound = measured.sides.get((draft, 0.0, wire)), measured.bounds.get((draft, 0.0))
    if sides is None or bound is None:
        return Figure.skipped(name, f"needs {draft} at a wire of {wire:g} ms")
    length, sums = best(sides, AHEAD, ADAPTIVE)
    note = f"{sums.speed:.0f} tokens/s at {length}; the bound: {bound.speed:.0f} at {bound.length}"
    return Figure(name, sums.speed / bound.speed, note=note)


def _over(measured: Measured, name: str, way: str, wire: float) -> Figure:
    sides = measured.sides.get((NOISE, 0.0, wire))
    if sides is None:
        return Figure.skipped(name, f"needs {NOISE} at a wire of {wire:g} ms")
    (length, sums), (other_length, other) = best(sides, AHEAD, ADAPTIVE), best(sides, way)
    note = f"{sums.speed:.0f} tokens/s at {length}; {way}: {other.speed:.0f} at {other_length}"
    return Figure(name, sums.speed / other.speed, note=note)


def _hit_rate(measured: Measured, name: str, temperature: float) -> Figure:
    sides = measured.sides.get((NOISE, temperature, NEAR))
    if sides is None:
        return Figure.skipped(name, f"needs {NOISE} at temperature {temperature:g} and a wire of {NEAR:g} ms")
    length, sums = best(sides, AHEAD)
    if sums.hit_rate is None:
        return Figure.failed(name, "nothing was ever foreseen")
    return Figure(name, sums.hit_rate, note=f"at {length}; {_kinds(sums)}")


def _hit_rate_live(measured: Measured) -> Figure:
    name, live = "hits_ratio", measured.live
    if live is None:
        return Figure.skipped(name, "the ratio rule runs live, with --check or --ratio")
    steps = ", ".join(f"{each.late} of {each.made} steps of the {role} late" for role, each in live.steps.items())
    if not live.is_paced:
        return Figure.failed(name, f"{steps}, more than {MOST_LATE:.0%}: needs more --stretch than {live.stretch:g}")
    length, sums = best(live.sides, AHEAD)
    if sums.hit_rate is None:
        return Figure.failed(name, "nothing was ever foreseen")
    hits, misses = sum(sums.hits.values()), sum(sums.misses.values())
    if hits + misses < LEAST_OUTCOMES:
        return Figure.skipped(
            name, f"no verdict of {hits + misses} outcomes; {LEAST_OUTCOMES} are needed", sums.hit_rate
        )
    note = f"at {length}; {_kinds(sums)}; {steps}"
    return Figure(name, sums.hit_rate, note=note, interval=share(hits, hits + misses))


def _kinds(sums: Sums) -> str:
    return ", ".join(f"{kind}: {_share(sums.hits[kind], sums.misses[kind])}" for kind in sums.hits)


def _share(hits: int, misses: int) -> str:
    return f"{hits} of {hits + misses}"


def _asked(measured: Measured) -> Figure:
    name = "asked_p99"
    if not measured.together:
        return Figure.skipped(name, f"needs {CALLERS} callers at once")
    ours, theirs = measured.together[AHEAD].asked, measured.together[NONE].asked
    if min(len(ours), len(theirs)) < LEAST_ASKED:
        return Figure.skipped(name, f"no verdict of {min(len(ours), len(theirs))} blocks; {LEAST_ASKED} are needed")
    one, other = Percentiles.of(ours), Percentiles.of(theirs)
    assert one is not None and other is not None
    note = f"{one.p99:.1f} against {other.p99:.1f} ms, of {len(ours)} and {len(theirs)} blocks"
    return Figure(name, one.p99 / other.p99, note=note)
