"""Distributions over tokens: entropy and distances, rows cut to their head, distances from such rows."""

from __future__ import annotations

from tandem.brackets import (
    Distances,
    Heads,
    distance_bracket,
    distances,
    full_row_distance,
    full_row_distances,
    probabilities,
    stack,
)
from tandem.compression import (
    CompressedRow,
    CutRows,
    compress,
    compress_rows,
    full_law,
    full_row_from_bytes,
    half_from_bytes,
    half_to_bytes,
    law,
    rows_from,
    truncate_law,
    truncate_rows,
)
from tandem.divergences import (
    divergence_terms,
    entropy,
    entropy_of_top,
    js_distance,
    js_divergence,
    top3_entropy,
    total_variation,
)

__all__ = [
    "CompressedRow",
    "CutRows",
    "Distances",
    "Heads",
    "compress",
    "compress_rows",
    "distance_bracket",
    "distances",
    "divergence_terms",
    "entropy",
    "entropy_of_top",
    "full_law",
    "full_row_distance",
    "full_row_distances",
    "full_row_from_bytes",
    "half_from_bytes",
    "half_to_bytes",
    "js_distance",
    "js_divergence",
    "law",
    "probabilities",
    "rows_from",
    "stack",
    "top3_entropy",
    "total_variation",
    "truncate_law",
    "truncate_rows",
]
