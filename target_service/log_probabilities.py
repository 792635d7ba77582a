"""How likely tokens are under the model itself, before the sampling chain, for those who ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.transfers import to_host, upload


@dataclass(frozen=True, slots=True)
class PositionLogProbabilities:
    """log p of the target's own token at a position, and the likeliest tokens there, likeliest first. Nats."""

    log_probability: float
    top_ids: Sequence[int] = ()
    top_log_probabilities: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class BlockLogProbabilities:
    """Of a block of n candidates: log p of the candidates and of the corrections (n), and n + 1 positions."""

    candidates: Sequence[float]
    corrections: Sequence[float]
    positions: Sequence[PositionLogProbabilities]


def log_probabilities(
    logits: Tensor,
    own: Sequence[int],
    candidates: Sequence[int],
    corrections: Sequence[int],
    top: int,
    rows: Sequence[int] | None = None,
) -> BlockLogProbabilities:
    """logits: [n + 1, V] of the model, any float type. own: the target's tokens, n + 1; candidates, corrections: n.
    top: how many of the likeliest tokens to name. rows: of logits, for each candidate; in order unless given. One
    transfer from the device."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    rows = range(len(candidates)) if rows is None else rows
    places = [[*range(len(own)), *rows, *rows], [*own, *candidates, *corrections]]
    numbers = {"asked": log_p[tuple(upload(places, torch.long, logits.device))]}
    if top:
        values, ids = log_p.topk(min(top, log_p.shape[-1]), dim=-1)
        numbers |= {"top": values, "ids": ids}
    host = to_host([numbers])[0]
    asked, ends = host["asked"].tolist(), (len(own), len(own) + len(candidates))
    of_own, of_candidates, of_corrections = asked[: ends[0]], asked[ends[0] : ends[1]], asked[ends[1] :]
    of_top, top_ids = (host[name].tolist() if top else [()] * len(own) for name in ("top", "ids"))
    positions = [
        PositionLogProbabilities(value, list(map(int, ids_of)), values_of)
        for value, ids_of, values_of in zip(of_own, top_ids, of_top, strict=True)
    ]
    return BlockLogProbabilities(of_candidates, of_corrections, positions)
