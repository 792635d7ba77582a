"""Verification of blocks of candidates: the numbers on which acceptance is decided, each under one exact rule.

Pure: no gRPC, no model. The formulas are in `target_service.rules`; here they meet compressed rows and noise, for all
sequences of a step together. Nothing is read back from the device before everything has been computed; what may be
wrong with a block is a number like the others. Lossy rules are decided elsewhere, on top of these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from target_service.blocks import Block, BlockNumbers, Rule
from target_service.rules import block_acceptance, block_weights, ratio_acceptance, residual, surplus

__all__ = ["GREEDY_SUPPORT", "Block", "BlockNumbers", "Rule", "target_tokens", "verify", "verify_many"]

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
    it has alone: ids, log-probabilities and entropies to the last bit, acceptances within 1e-12 and distances within
    3e-8 (sums over q run over the widest q of the step).
    In place of its numbers there is a ValueError for a block whose parts do not fit together, or whose candidate is
    not in its own distribution, and a NotFiniteError for one with a row that is no distribution.
    """
    found: list[BlockNumbers | ValueError | None] = [None] * len(blocks)
    alike: dict[tuple[Rule, bool, int], list[int]] = {}
    for index, (block, rows) in enumerate(zip(blocks, log_p, strict=True)):
        try:
            block.check(len(rows), rows.shape[-1])
        except ValueError as error:
            found[index] = error
        else:
            measured = bool(block.rows) or block.rule.draws_residuals
            alike.setdefault((block.rule, measured, block.max_entries), []).append(index)
    batches = [BlockBatch([blocks[at] for at in members], [log_p[at] for at in members]) for members in alike.values()]
    columns = to_host([_columns(batch) for batch in batches])
    for batch, members, numbers in zip(batches, alike.values(), columns, strict=True):
        for at, each in zip(members, batch.numbers(numbers), strict=True):
            found[at] = each
    return [numbers for numbers in found if numbers is not None]


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


def _columns(batch: BlockBatch) -> dict[str, Tensor]:
    """What `BlockBatch.numbers` takes: [N] or [M] each, on the device."""
    rule, log_p = batch.blocks[0].rule, batch.log_p
    heads = batch.heads()
    top = top_values(log_p, min(3, log_p.shape[-1]))
    columns: dict[str, Tensor] = {}
    if rule.draws_residuals:
        own, corrections = _residuals(batch, rule, heads, columns)
    else:
        if rule is Rule.GREEDY:
            own = argmax(log_p)
        else:
            forbids = any(block.forbids for block in batch.blocks)
            own = gumbel_argmax_batch(log_p, batch.counters(), forbids=forbids)
        corrections = own[batch.place]
        columns["acceptance"], columns["stray"] = corrections == batch.x, torch.zeros_like(batch.x)
        if heads is not None:
            _measure(probabilities(batch.of_candidates(log_p)), heads, columns)
    log_p_x, max_log_p = log_p[batch.place, batch.x], top[:, 0]
    least = max_log_p[batch.place] + math.log(GREEDY_SUPPORT) if rule is Rule.GREEDY else -math.inf
    columns |= batch.rows()
    return columns | {
        "broken": not_finite(log_p),
        "own": own,
        "own_log_p": log_p.gather(-1, own.unsqueeze(1)).squeeze(1),
        "max_log_p": max_log_p,
        "entropies": entropy(log_p),
        "top3_entropies": entropy_of_top(top),
        "corrections": corrections,
        "correction_log_p": log_p[batch.place, corrections],
        "log_p": log_p_x,
        "in_support": log_p_x.isfinite() & (log_p_x >= least),
    }


def _measure(p: Tensor, heads: Heads, columns: dict[str, Tensor]) -> None:
    """Adds the distances of p [M, V] from q."""
    measured = distances(p, heads)
    columns |= {"total_variations": measured.total_variation, "lower": measured.lower, "upper": measured.upper}


def _residuals(
    batch: BlockBatch, rule: Rule, heads: Heads | None, columns: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The target's own tokens [N] and corrections [M] under RATIO and BLOCK; adds what else needs p in float64."""
    for_own, for_corrections = batch.uniforms()
    p = probabilities(batch.log_p)
    own = inverse_cdf(p, for_own)
    # Overwritten from here on: p has been drawn from, and a copy costs as much as all the rest.
    p = batch.of_candidates(p)
    if heads is None:  # no candidates
        columns["acceptance"] = columns["stray"] = p.new_zeros(0)
        return own, inverse_cdf(p, for_corrections)
    _measure(p, heads, columns)
    x = batch.x.unsqueeze(1)
    matches = (heads.token_ids == x) & (heads.listed > 0)
    columns["stray"] = ~matches.any(-1)
    q_x, p_x = (heads.q * matches).sum(-1), p.gather(-1, x).squeeze(-1)
    p_head = p.gather(-1, heads.token_ids)
    never = torch.zeros_like(matches[:, 0])
    if rule is Rule.RATIO:
        columns["acceptance"], weight = ratio_acceptance(p_x, q_x), torch.ones_like(p_x)
    else:
        columns["acceptance"], weight = _block(batch, p_x, q_x, p_head, heads)
        never = weight < _NEVER
        p *= weight.masked_fill(never, 1.0).unsqueeze(-1)
    left = residual(p_head, heads.q, weight)
    law = p.scatter_(-1, heads.token_ids, left)
    # Nothing is left where w p <= q everywhere. Such a candidate is the first not kept only by rounding (p = q), or
    # when w = 0, and then with probability 0; a draw from p does no harm there [ours].
    empty = ((law.sum(-1) <= 0) | never).unsqueeze(-1)
    law = law.scatter_(-1, heads.token_ids, torch.where(empty, p_head, left))
    return own, inverse_cdf(law, for_corrections)


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
