"""Draws several candidates for one place, for many places of many sequences together.

Under RATIO and BLOCK one after the other, each from what is left of the numbers that are sent: drawn without
replacement, as recursive rejection at the target takes them (arXiv 2402.14160, section 3). Under GREEDY the likeliest.
Under COUPLED those of the largest log q + g, with the noise that the target draws with too: where p is like q its draw
is likely among them (Gumbel top-k: Kool et al., arXiv 1903.06059).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from draft_service.drafters.drawing import Draw
from draft_service.drafters.growth import Voice, is_sound
from tandem.distributions import CompressedRow, compress_rows, entropy, rows_from, truncate_rows
from tandem.gumbel import Counters, gumbel_best_batch
from tandem.noise import Purpose, uniforms
from tandem.sampling import NotFiniteError, inverse_cdf, log_probs_batch, not_finite
from tandem.sayable import Sayable
from tandem.selection import top_places
from tandem.transfers import join, portions, to_host, upload
from tandem.v1 import sampling_pb2


@dataclass(frozen=True, slots=True)
class Place:
    """Where candidates are wanted. voice: of the text before. draw: at the place; its own candidate is not looked at.
    count: at most. number: of the draws under RATIO and BLOCK, for the first candidate, then one more for each: no two
    of a round may be the same."""

    voice: Voice
    draw: Draw
    count: int
    number: int


@dataclass(frozen=True, slots=True)
class Siblings:
    """Candidates for one place in the order in which they were drawn, log q of each and H(q) in nats, and what is sent
    of q: the law before any was drawn."""

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    entropy: float
    row: CompressedRow | None


def draw_siblings(places: Sequence[Place], logits: Sequence[Tensor]) -> list[Siblings | NotFiniteError]:
    """The candidates of each place, fewer where its law has not so many tokens; none where nothing that may follow can
    be said. logits: fp32 [1, V] each."""
    found: list[Siblings | NotFiniteError] = []
    sayable = places[0].voice.sayable if places else None
    for part in portions(logits):
        voices = [place.voice for place in places[part]]
        chains, histories = [voice.chain for voice in voices], [voice.history for voice in voices]
        log_q = log_probs_batch(chains, logits[part], histories, [()] * len(voices), sayable)
        found += _drawn(places[part], log_q, sayable)
    if sayable is None:
        return found
    silent = Siblings((), (), 0.0, None)
    return [
        silent if isinstance(each, NotFiniteError) and is_sound(rows) else each
        for each, rows in zip(found, logits, strict=True)
    ]


def _drawn(
    places: Sequence[Place], log_q: Sequence[Tensor], sayable: Sayable | None
) -> list[Siblings | NotFiniteError]:
    alike: dict[tuple[int, int], list[int]] = {}
    for index, place in enumerate(places):
        alike.setdefault((place.draw.verification, place.draw.max_entries), []).append(index)
    groups = [([places[at] for at in members], join([log_q[at] for at in members])) for members in alike.values()]
    columns = [
        _sampled(group, rows) if group[0].draw.is_sampled else _chosen(group, rows, sayable) for group, rows in groups
    ]
    if sayable is not None:
        names = ("tokens", "token_ids")
        columns = [
            group | {name: sayable.ids(group[name]) for name in names if name in group} for group in columns
        ]
    found: list[Siblings | NotFiniteError | None] = [None] * len(places)
    for (group, _), members, host in zip(groups, alike.values(), to_host(columns), strict=True):
        for at, siblings in zip(members, _read(group, host), strict=True):
            found[at] = siblings
    return [siblings for siblings in found if siblings is not None]


def _sampled(places: Sequence[Place], log_q: Tensor) -> dict[str, Tensor]:
    """Draws from the rows cut to what is sent, without replacement."""
    draws = [place.draw for place in places]
    cut = truncate_rows(log_q, draws[0].max_entries)
    q = cut.law()
    left, tokens, logs = q.clone(), [], []
    for turn in range(max(place.count for place in places)):
        numbers = [place.number + turn for place in places]
        u = uniforms([draw.noise for draw in draws], Purpose.DRAFT, numbers, [draw.attempt for draw in draws])
        index = inverse_cdf(left, upload(u, torch.float64, q.device)).unsqueeze(1)
        token = cut.token_ids.gather(1, index)
        tokens.append(token.masked_fill(left.gather(1, index) <= 0, -1))  # none is left
        logs.append(q.gather(1, index).log())
        left.scatter_(1, index, 0.0)
    return cut.columns() | {
        "broken": not_finite(log_q),
        "tokens": torch.cat(tokens, -1),
        "logs": torch.cat(logs, -1),
        "entropy": -torch.special.xlogy(q, q).sum(-1),
    }


def _chosen(places: Sequence[Place], log_q: Tensor, sayable: Sayable | None) -> dict[str, Tensor]:
    """The likeliest tokens under GREEDY, by log q + g under COUPLED."""
    draws = [place.draw for place in places]
    most = min(max(place.count for place in places), log_q.shape[-1])
    if draws[0].verification == sampling_pb2.VERIFICATION_RULE_COUPLED:
        counters = Counters.of([draw.noise for draw in draws], [draw.position for draw in draws])
        forbids = any(draw.forbids for draw in draws)
        tokens = gumbel_best_batch(log_q, counters, most, forbids=forbids, sayable=sayable)[:, 1:]
    else:
        tokens = top_places(log_q, most)
    columns: dict[str, Tensor] = {}
    if entries := draws[0].max_entries:
        columns |= compress_rows(log_q, entries, [draw.mass for draw in draws]).columns()
    return columns | {
        "broken": not_finite(log_q),
        "tokens": tokens,
        "logs": log_q.gather(1, tokens.clamp(min=0)),
        "entropy": entropy(log_q),
    }


def _read(places: Sequence[Place], columns: Mapping[str, Tensor]) -> list[Siblings | NotFiniteError]:
    """What was drawn, from the host's columns."""
    sent: Sequence[CompressedRow | None] = rows_from(columns) if places[0].draw.max_entries else [None] * len(places)
    numbers = (columns[name].tolist() for name in ("broken", "tokens", "logs", "entropy"))
    found: list[Siblings | NotFiniteError] = []
    for place, row, (broken, tokens, logs, h) in zip(places, sent, zip(*numbers, strict=True), strict=True):
        if broken:
            found.append(NotFiniteError("logits are not finite, or the sampling parameters leave no token"))
            continue
        there = [(int(token), log) for token, log in zip(tokens, logs, strict=True) if token >= 0][: place.count]
        token_ids, log_probabilities = zip(*there, strict=True) if there else ((), ())
        found.append(Siblings(token_ids, log_probabilities, h, row))
    return found
