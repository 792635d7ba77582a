"""Verification of blocks of candidates: the numbers on which acceptance is decided, each under one exact rule.

Pure: no gRPC, no model. The formulas are in `target_service.rules`; here they meet compressed rows and noise, for all
sequences of a step together. Nothing is read back from the device before everything has been computed; what may be
wrong with a block is a number like the others. Lossy rules are decided elsewhere, on top of these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from tandem.distributions import (
    CompressedRow,
    Heads,
    distances,
    entropy,
    entropy_of_top,
    probabilities,
)
from tandem.gumbel import Counters, gumbel_argmax_batch
from tandem.noise import NoiseStream, Purpose, uniforms
from tandem.sampling import inverse_cdf, not_finite
from tandem.selection import argmax, top_values
from tandem.transfers import to_host, upload
from target_service.batch import BlockBatch
from target_service.blocks import Block, BlockNumbers, Rule, Token
from target_service.recursion import take_turns
from target_service.rules import block_acceptance, block_weights, ratio_acceptance, residual, surplus

__all__ = ["Block", "BlockNumbers", "Rule", "Token", "next_tokens", "target_tokens", "verify", "verify_many"]

_Result = TypeVar("_Result")

#: At temperature 0 a lossy rule may let through what has at least this share of the largest probability [ours].
GREEDY_SUPPORT = 0.1
# Of weights in block verification; a prefix of less is kept with no more than that chance.
_NEVER = 1e-100


def verify(
    rule: Rule,
    log_p: Tensor,
    candidates: Sequence[int],
    rows: Sequence[CompressedRow] | None,
    noise: NoiseStream,
    position: int,
    greedy: bool | None = None,
) -> BlockNumbers:
    """The numbers of one block, see `Block` and `verify_many`; log_p: fp32 [n + 1, V].

    greedy: whether the temperature is 0; only GREEDY has it, so it may be left out.
    Raises ValueError where these do not fit together, naming what does not.
    """
    if greedy is not None and greedy != (rule is Rule.GREEDY):
        raise ValueError(f"rule {rule.value} does not go with temperature {'0' if greedy else 'above 0'}")
    if log_p.dim() != 2:
        raise ValueError(f"rows of p must be a matrix, not of shape {tuple(log_p.shape)}")
    found = verify_many([Block(rule, candidates, rows, noise, position)], [log_p])[0]
    if isinstance(found, Exception):
        raise found
    return found


def verify_many(blocks: Sequence[Block], log_p: Sequence[Tensor]) -> list[BlockNumbers | ValueError]:
    """The numbers of each block of a step.

    log_p: for a block of n candidates fp32 [n + 1, V], log-probabilities after the request's chain, all of one V and
    on one device; NaN rows are no distribution. The blocks of one rule are computed with together, by its formulas;
    all numbers, and the rows of p that were asked for, come back in one transfer. A block's numbers are those that
    it has alone: ids and log-probabilities to the last bit, entropies within 1e-6, acceptances within 1e-12 and
    distances within 3e-8 (sums over q run over the widest q of the step; a distance is the root of such a sum).
    In place of its numbers there is a ValueError for a block whose parts do not fit together, or whose candidate is
    not in its own distribution, and a NotFiniteError for one with a row that is no distribution.
    """
    return _together(blocks, log_p, _verified, BlockBatch.numbers)


def next_tokens(blocks: Sequence[Block], log_p: Sequence[Tensor]) -> list[Token | ValueError]:
    """Plain decoding: the target's own token after each of these blocks, which have no candidates; as `verify_many`."""
    return _together(blocks, log_p, _decoded, BlockBatch.tokens)


def _together(
    blocks: Sequence[Block],
    log_p: Sequence[Tensor],
    compute: Callable[[BlockBatch], dict[str, Tensor]],
    read: Callable[[BlockBatch, Mapping[str, Tensor]], Sequence[_Result | ValueError]],
) -> list[_Result | ValueError]:
    """Computes for blocks that are alike together, brings everything back at once, and reads it."""
    found: list[_Result | ValueError | None] = [None] * len(blocks)
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, (block, rows) in enumerate(zip(blocks, log_p, strict=True)):
        try:
            block.check(len(rows), rows.shape[-1])
        except ValueError as error:
            found[index] = error
        else:
            measured = bool(block.rows) or block.rule.draws_residuals
            kind = block.rule, measured, block.max_entries, bool(len(block.tree)), block.drafts
            alike.setdefault(kind, []).append(index)
    batches = [BlockBatch([blocks[at] for at in members], [log_p[at] for at in members]) for members in alike.values()]
    host = to_host([compute(batch) for batch in batches])
    for batch, members, columns in zip(batches, alike.values(), host, strict=True):
        for at, result in zip(members, read(batch, columns), strict=True):
            found[at] = result
    return [result for result in found if result is not None]


def target_tokens(rule: Rule, log_p: Tensor, noise: NoiseStream, position: int) -> Tensor:
    """The target's own token at each position: int64 [n] of log-probabilities [n, V].

    The likeliest under GREEDY (the lowest id among equals), the coupled draw under COUPLED, a draw from p under the
    others. Row i is at absolute position `position` + i. Plain decoding emits these.
    """
    positions = range(position, position + len(log_p))
    if rule is Rule.GREEDY:
        return argmax(log_p)
    if rule is Rule.COUPLED:
        return gumbel_argmax_batch(log_p, Counters.of([noise], positions))
    u = uniforms([noise] * len(log_p), Purpose.TARGET, positions)
    return inverse_cdf(probabilities(log_p), upload(u, torch.float64, log_p.device))


def _decoded(batch: BlockBatch) -> dict[str, Tensor]:
    """What `BlockBatch.tokens` takes, on the device."""
    if batch.rule.draws_residuals:
        own = inverse_cdf(batch.law(), batch.uniforms(Purpose.TARGET))
    else:
        own = _own(batch)
    return _positions(batch, own)


def _verified(batch: BlockBatch) -> dict[str, Tensor]:
    """What `BlockBatch.numbers` takes, on the device: [N] or [M] each."""
    log_p, place = batch.log_p, batch.place
    if batch.rule.draws_residuals:
        own, corrections, decided = _siblings(batch) if batch.is_tree else _residuals(batch)
    else:
        own = _own(batch)
        corrections = own[place]
        decided = {"acceptance": (corrections == batch.x).to(torch.float64), "stray": torch.zeros_like(batch.x)}
        heads = batch.heads()
        if heads is not None:
            decided |= _measured(probabilities(batch.of_candidates(log_p)), heads)
    top = top_values(log_p, min(3, log_p.shape[-1]))
    log_p_x, max_log_p = log_p[place, batch.x], top[:, 0]
    least = max_log_p[place] + math.log(GREEDY_SUPPORT) if batch.rule is Rule.GREEDY else -math.inf
    return _positions(batch, own) | decided | {
        "max_log_p": max_log_p,
        "top3_entropies": entropy_of_top(top),
        "corrections": corrections,
        "correction_log_p": log_p[place, corrections],
        "log_p": log_p_x,
        "in_support": log_p_x.isfinite() & (log_p_x >= least),
    }


def _own(batch: BlockBatch) -> Tensor:
    """The target's own tokens under the rules that do not draw from p in float64: int64 [N]."""
    if batch.rule is Rule.GREEDY:
        return argmax(batch.log_p)
    forbids = any(block.forbids for block in batch.blocks)
    return gumbel_argmax_batch(batch.log_p, batch.counters(), forbids=forbids)


def _positions(batch: BlockBatch, own: Tensor) -> dict[str, Tensor]:
    """What plain decoding needs of each position: [N] each, and rows of p where asked for."""
    log_p = batch.log_p
    return batch.cut_rows() | {
        "broken": not_finite(log_p),
        "own": own,
        "own_log_p": log_p.gather(-1, own.unsqueeze(1)).squeeze(1),
        "entropies": entropy(log_p),
    }


def _measured(p: Tensor, heads: Heads) -> dict[str, Tensor]:
    """The distances of p [M, V] from q."""
    found = distances(p, heads)
    return {"total_variations": found.total_variation, "lower": found.lower, "upper": found.upper}


def _residuals(batch: BlockBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Own tokens [N] and corrections [M] under RATIO and BLOCK, and what else needs p in float64."""
    heads = batch.heads()
    p = batch.law()
    own = inverse_cdf(p, batch.uniforms(Purpose.TARGET))
    # Overwritten from here on: p has been drawn from, and a copy costs as much as all the rest.
    p = batch.of_candidates(p)
    u = batch.uniforms(Purpose.CORRECTION)
    if heads is None:  # no candidates
        return own, inverse_cdf(p, u), {"acceptance": p.new_zeros(0), "stray": p.new_zeros(0)}
    found = _measured(p, heads)
    x = batch.x.unsqueeze(1)
    matches = (heads.token_ids == x) & (heads.listed > 0)
    q_x, p_x = (heads.q * matches).sum(-1), p.gather(-1, x).squeeze(-1)
    p_head = p.gather(-1, heads.token_ids)
    never = None
    if batch.rule is Rule.RATIO:
        acceptance, weight = ratio_acceptance(p_x, q_x), torch.ones_like(p_x)
    else:
        acceptance, weight = _block(batch, p_x, q_x, p_head, heads)
        never = weight < _NEVER
        p *= weight.masked_fill(never, 1.0).unsqueeze(-1)
    left = residual(p_head, heads.q, weight)
    law = p.scatter_(-1, heads.token_ids, left)
    # Nothing is left where w p <= q everywhere. Such a candidate is the first not kept only by rounding (p = q), or
    # when w = 0, and then with probability 0; a draw from p does no harm there [ours].
    empty = law.sum(-1) <= 0
    if never is not None:
        empty |= never
    law = law.scatter_(-1, heads.token_ids, torch.where(empty.unsqueeze(-1), p_head, left))
    return own, inverse_cdf(law, u), found | {"acceptance": acceptance, "stray": ~matches.any(-1)}


def _siblings(batch: BlockBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As `_residuals`, of trees; one correction for each group of siblings."""
    heads = batch.heads()
    assert heads is not None  # a tree has candidates, and each its distribution
    p = probabilities(batch.log_p)
    own = inverse_cdf(p, batch.uniforms(Purpose.TARGET))
    found = _measured(batch.of_candidates(p), heads)
    first, candidate, filled, family, turn = batch.turns()
    p = p.index_select(0, batch.place[first])
    token_ids, listed = heads.token_ids[first], heads.listed[first]
    p_head = p.gather(-1, token_ids) * listed
    # Added up by itself: the rounding of 1 less the others, divided by what little is left after a turn, would be mass
    # that no token has.
    elsewhere = p.scatter(-1, token_ids, 0.0)
    turns = take_turns(p_head, elsewhere.sum(-1), token_ids, heads.q[first] * listed, batch.x[candidate], filled)
    # Padding repeats the first entry of its row, which it must not overwrite.
    left = torch.where(listed > 0, turns.head, turns.head[:, :1])
    law = (elsewhere * turns.rest.unsqueeze(-1)).scatter_(-1, token_ids, left)
    corrections = inverse_cdf(law, batch.uniforms(Purpose.CORRECTION))[family]
    return own, corrections, found | {
        "acceptance": turns.acceptance[family, turn],
        "stray": turns.stray[family, turn].to(torch.long),
    }


def _block(batch: BlockBatch, p_x: Tensor, q_x: Tensor, p_head: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Acceptance and the weight before each candidate under BLOCK: [M] each, from p and q at x and in the heads."""
    candidate, filled, last, cell = batch.grid()
    # Behind the end of a shorter block the ratio is 1: it changes nothing that is read.
    weights = block_weights(*(torch.where(filled, column[candidate], 1.0) for column in (p_x, q_x)))
    weight = weights[:, :-1].flatten()[cell]
    listed_p = p_head * heads.listed
    p_rest = (1 - listed_p.sum(-1)).clamp(min=0)
    surpluses = surplus(listed_p, heads.q * heads.listed, weight, p_rest)
    acceptance = block_acceptance(weights, surpluses[candidate])
    return torch.where(last, weights[:, 1:], acceptance).flatten()[cell], weight
