"""The pair of models that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bench.pair import Pair

#: As options of a bench name what makes a pair.
FIELDS = tuple(field.name for field in fields(Pair))


def pair_of(options: Mapping[str, Any]) -> Pair | None:
    """None where a bench has no pair."""
    if not all(isinstance(options.get(name), str) for name in ("target_model", "draft_model")):
        return None
    return Pair(**{name: options[name] for name in FIELDS if name in options})


def same_models(one: Pair, other: Pair) -> bool:
    """Whether what one was measured for may stand beside the other's: threads change speed alone."""
    return replace(one, threads=None) == replace(other, threads=None)


def pair_name(pair: Pair) -> str:
    """Shorter than a bench's own line."""
    weights = "" if pair.draft_weights == "full" else f" ({pair.draft_weights})"
    dtype = "" if pair.dtype == "bfloat16" else f", {pair.dtype}"
    return f"{pair.target_model} with {pair.draft_model}{weights}{dtype}"


def titles(kept: Iterable[tuple[Pair | None, float]]) -> list[str]:
    """What tells runs apart: their temperature, and their pair where there are several."""
    runs: Sequence[tuple[Pair | None, float]] = list(kept)
    several = len({pair for pair, _ in runs}) > 1
    return [
        (f"{pair_name(pair)}, " if several and pair else "") + f"temperature {temperature:g}"
        for pair, temperature in runs
    ]
