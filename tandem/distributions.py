"""Distributions over tokens: entropy and distances, rows cut to their head, distances from such rows."""

from __future__ import annotations

from tandem.brackets import (
    Distances,
    Heads,
    distance_bracket,
    distances,
    full_row_distance,
    probabilities,
    stack,
)
from tandem.compression import (
    CompressedRow,
    compress,
    full_law,
    full_row_from_bytes,
    half_from_bytes,
    half_to_bytes,
    law,
    truncate_law,
)
from tandem.divergences import (
    divergence_terms,
    entropy,
    js_distance,
    js_divergence,
    top3_entropy,
    total_variation,
)

__all__ = [
    "CompressedRow",
    "Distances",
    "Heads",
    "compress",
    "distance_bracket",
    "distances",
    "divergence_terms",
    "entropy",
    "full_law",
    "full_row_distance",
    "full_row_from_bytes",
    "half_from_bytes",
    "half_to_bytes",
    "js_distance",
    "js_divergence",
    "law",
    "probabilities",
    "stack",
    "top3_entropy",
    "total_variation",
    "truncate_law",
]
