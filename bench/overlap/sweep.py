"""Policies on paper, each at the lengths that serve it best."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.overlap.calibration import calibrate
from bench.overlap.costs import Costs
from bench.overlap.paper import Played, Policy, geometric, ideal, main_line, play
from bench.overlap.recording import Recording
from bench.overlap.run import Bound

_ASKED, _TAKEN = (5, 8, 12), (8, 11, 14)
_LONGEST = 32


def sweep(
    recording: Recording,
    wires: Sequence[float],
    *,
    texts: int,
    tokens: int,
    costs: Costs | None = None,
    names: Collection[str] | None = None,
) -> Iterator[tuple[float, str, str, Played, Bound]]:
    """Delay in milliseconds, policy, its lengths, what it played and the bound. costs: all but the wire's. names: of
    the policies, all if None."""
    costs = costs or Costs()
    calibration = calibrate(recording)
    part = replace(recording, texts=recording.texts[:texts])
    speeds = ((ideal(part, costs, length, tokens=tokens), length) for length in range(_LONGEST + 1))
    limit = Bound(*max(speeds))
    for wire in wires:
        costs = replace(costs, wire=wire)
        for name, options in _policies(recording.agreement).items():
            if names is not None and name not in names:
                continue
            played = {
                (asked, taken): play(
                    part, costs, Policy(asked, taken, **options), tokens=tokens, calibration=calibration
                )
                for asked in _ASKED
                for taken in ((asked,) if options.get("rows") == 1 else _TAKEN)
            }
            (asked, taken), best = max(played.items(), key=lambda each: each[1].speed)
            yield wire, name, f"{asked} / {taken}", best, limit


def _policies(agreement: float) -> Mapping[str, Mapping[str, Any]]:
    return {
        "no look-ahead": {"rows": 1},
        "main line only": {"allowed": main_line},
        "SSD's fan-out": {"allowed": geometric(agreement, 16)},
        "likeliest outcomes": {},
        "branches of branches, too": {"nested": True},
    }
