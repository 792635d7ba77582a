"""Draws candidates for many sequences of a step together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.distributions import CompressedRow, compress_rows, entropy, rows_from, truncate_rows
from tandem.gumbel import Counters, gumbel_best_batch
from tandem.noise import NoiseStream, Purpose, uniforms
from tandem.sampling import NotFiniteError, inverse_cdf, not_finite
from tandem.sayable import Sayable
from tandem.selection import argmax, top_places
from tandem.transfers import join, to_host, upload
from tandem.v1 import sampling_pb2

#: Tokens that are kept besides what was drawn, where it may have to be foreseen what comes instead.
MOST_BEST = 9

# What a draw finds by its column in the row.
_PLACES = ("token", "best", "token_ids")
_SAMPLED_RULES = (sampling_pb2.VERIFICATION_RULE_RATIO, sampling_pb2.VERIFICATION_RULE_BLOCK)


@dataclass(frozen=True, slots=True)
class Draw:
    """What is wanted of one sequence: a candidate for an absolute position, and its distribution as it is sent.

    attempt: of draws under RATIO and BLOCK. max_entries, mass: see `SequenceSpec`. forbids: whether the sequence's
    sampling may give tokens probability 0; only costs time where it need not be. foresees: whether `Drawn.best` is
    wanted. keeps_row: whether `Drawn.full_row` may be.
    """

    verification: sampling_pb2.VerificationRule.ValueType
    noise: NoiseStream
    position: int
    attempt: int
    max_entries: int
    mass: float
    forbids: bool = True
    foresees: bool = False
    keeps_row: bool = True

    @property
    def is_sampled(self) -> bool:
        """Whether it is drawn from the numbers that are sent, so that the test at the target is exact."""
        return is_sampled(self.verification)


def is_sampled(rule: sampling_pb2.VerificationRule.ValueType) -> bool:
    """Whether candidates are drawn from the numbers that are sent, with noise of the draft's own."""
    return rule in _SAMPLED_RULES


@dataclass(frozen=True, slots=True)
class Drawn:
    """A candidate, log q(x) and H(q) in nats, what is sent of q, and log q where the target may ask for all: [V], or
    [C] of the tokens that the draft can say.

    best: where it was asked for, the likeliest tokens at this place, the candidate mostly among them, likeliest first:
    by log q, under COUPLED by log q + g with the noise that the target draws with too.
    """

    token_id: int
    log_probability: float
    entropy: float
    row: CompressedRow | None
    full_row: Tensor | None
    best: tuple[int, ...] = ()


def draw_many(
    draws: Sequence[Draw], log_q: Sequence[Tensor], sayable: Sayable | None = None
) -> list[Drawn | NotFiniteError]:
    """A candidate for each sequence; log_q: fp32 [1, V] each, log-probabilities after its chain, NaN for none; [1, C]
    of a draft that can say these tokens only.

    All numbers and rows that are sent come back in one transfer; full rows stay on the device. A candidate is the one
    that its sequence gets alone.
    """
    alike: dict[tuple[int, int, bool], list[int]] = {}
    for index, draw in enumerate(draws):
        alike.setdefault((draw.verification, draw.max_entries, draw.foresees), []).append(index)
    found: list[Drawn | NotFiniteError | None] = [None] * len(draws)
    groups = [([draws[at] for at in members], join([log_q[at] for at in members])) for members in alike.values()]
    found_of = [
        _sampled(group, rows) if group[0].is_sampled else _chosen(group, rows, sayable) for group, rows in groups
    ]
    host = to_host([columns if sayable is None else _named(columns, sayable) for columns in found_of])
    for (group, rows), members, columns in zip(groups, alike.values(), host, strict=True):
        for at, drawn in zip(members, _read(group, rows, columns), strict=True):
            found[at] = drawn
    return [drawn for drawn in found if drawn is not None]


def _sampled(draws: Sequence[Draw], log_q: Tensor) -> dict[str, Tensor]:
    """Draws from the rows cut to what is sent, under RATIO and BLOCK."""
    cut = truncate_rows(log_q, draws[0].max_entries)
    q = cut.law()
    u = uniforms(
        [draw.noise for draw in draws],
        Purpose.DRAFT,
        [draw.position for draw in draws],
        [draw.attempt for draw in draws],
    )
    index = inverse_cdf(q, upload(u, torch.float64, q.device)).unsqueeze(1)
    columns = cut.columns()
    if draws[0].foresees:  # what is sent has them
        ids = cut.token_ids.masked_fill(cut.log_probs == -math.inf, -1)
        columns["best"] = ids[:, :MOST_BEST]
    return columns | {
        "broken": not_finite(log_q),
        "token": cut.token_ids.gather(1, index).squeeze(1),
        "log_probability": q.gather(1, index).squeeze(1).log(),
        "entropy": -torch.special.xlogy(q, q).sum(-1),
    }


def _named(columns: dict[str, Tensor], sayable: Sayable) -> dict[str, Tensor]:
    """With token ids in place of columns of the rows."""
    return columns | {name: sayable.ids(columns[name]) for name in _PLACES if name in columns}


def _chosen(draws: Sequence[Draw], log_q: Tensor, sayable: Sayable | None) -> dict[str, Tensor]:
    """The likeliest tokens under GREEDY, coupled draws under COUPLED."""
    best = min(MOST_BEST, log_q.shape[-1]) if draws[0].foresees else 0
    columns: dict[str, Tensor] = {}
    if draws[0].verification == sampling_pb2.VERIFICATION_RULE_COUPLED:
        counters = Counters.of([draw.noise for draw in draws], [draw.position for draw in draws])
        forbids = any(draw.forbids for draw in draws)
        found = gumbel_best_batch(log_q, counters, best, forbids=forbids, sayable=sayable)
        token = found[:, 0]
        if best:
            columns["best"] = found[:, 1:]
    else:
        token = argmax(log_q)
        if best:
            columns["best"] = top_places(log_q, best)
    if entries := draws[0].max_entries:
        columns |= compress_rows(log_q, entries, [draw.mass for draw in draws]).columns()
    return columns | {
        "broken": not_finite(log_q),
        "token": token,
        "log_probability": log_q.gather(1, token.unsqueeze(1)).squeeze(1),
        "entropy": entropy(log_q),
    }


def _read(draws: Sequence[Draw], log_q: Tensor, columns: Mapping[str, Tensor]) -> list[Drawn | NotFiniteError]:
    """What was drawn, from the host's columns."""
    sent: Sequence[CompressedRow | None] = rows_from(columns) if draws[0].max_entries else [None] * len(draws)
    # Distributions without a tail leave nothing to ask for. A view would keep the rows of the whole step.
    keeps = bool(draws[0].max_entries) and not draws[0].is_sampled
    numbers = (columns[name].tolist() for name in ("broken", "token", "log_probability", "entropy"))
    best = columns["best"].long().tolist() if draws[0].foresees else [()] * len(draws)
    found: list[Drawn | NotFiniteError] = []
    read = zip(draws, sent, log_q, best, zip(*numbers, strict=True), strict=True)
    for draw, row, full, others, (broken, token, log_probability, h) in read:
        if broken:
            found.append(NotFiniteError("logits are not finite, or the sampling parameters leave no token"))
        else:
            kept = None
            if keeps and draw.keeps_row:
                kept = full.clone() if len(draws) > 1 else full
            likeliest = tuple(token for token in others if token >= 0)
            found.append(Drawn(int(token), log_probability, h, row, kept, likeliest))
    return found
