"""The names of all figures, by group. Imports no torch, so that flags are read before it is loaded."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

BATCH = 8
BLOCKS = (1, 5)
CONTEXTS = (256, 1024)


def step_name(batch: int, block: int, context: int | None) -> str:
    """context: None for lengths that are spread."""
    return f"step_batch{batch}_block{block}_" + ("spread" if context is None else f"context{context}")


class Group(enum.StrEnum):
    """What can be measured by itself; the longest last."""

    STEPS = "steps"
    THROUGHPUT = "throughput"
    PRECISION = "precision"
    PREFILL = "prefill"
    MEMORY = "memory"
    SOAK = "soak"


THROUGHPUT, THROUGHPUT_TRANSFORMERS = "sessions8_throughput", "sessions8_throughput_transformers"
INT4_DECODE, INT4_AGREEMENT, INT4_EQUAL_TEXTS = "int4_decode", "int4_agreement", "int4_equal_texts"
BESIDE, BESIDE_P90, PREFIX = "ttft_beside_prefill", "ttft_beside_prefill_p90", "prefix_prefill"
CACHE_LEFT = "cache_after_sessions"
SOAK_MEMORY = "soak_memory"

#: What the goal of the soak is for; a shorter one gives a figure and no verdict.
SOAK_GOAL_MINUTES = 30.0

FIGURES: Mapping[Group, tuple[str, ...]] = {
    Group.STEPS: (
        *(step_name(batch, block, context) for batch in (1, BATCH) for block in BLOCKS for context in CONTEXTS),
        *(step_name(BATCH, block, None) for block in BLOCKS),
    ),
    Group.THROUGHPUT: (THROUGHPUT, THROUGHPUT_TRANSFORMERS),
    Group.PRECISION: (INT4_DECODE, INT4_AGREEMENT, INT4_EQUAL_TEXTS),
    Group.PREFILL: (BESIDE, BESIDE_P90, PREFIX),
    Group.MEMORY: (CACHE_LEFT,),
    Group.SOAK: (SOAK_MEMORY,),
}

#: Why a figure has no goal.
WITHOUT_GOAL: Mapping[str, str] = {
    THROUGHPUT_TRANSFORMERS: "plain transformers, for comparison",
    INT4_EQUAL_TEXTS: "share of whole texts that are equal; no goal, since after one near-tie all may differ",
    BESIDE_P90: "90th percentile; the goal is on the median",
}


def figures_of(groups: Iterable[Group]) -> list[str]:
    return [name for group in groups for name in FIGURES[group]]
