"""What a draft learns from: how far its distribution q is from the target's p, of which the likeliest entries are
known.

A draft is not asked for what it cannot say: p is restricted to its vocabulary and renormalised. What remains of p's
mass beyond the kept entries is one bucket, with what remains of q's.

    KL(p || q) = sum_i p_i ln(p_i / q_i),    TV(p, q) = 1/2 sum_i |p_i - q_i|

over the kept entries and the bucket. Both are lower bounds of what they are over all tokens: putting tokens together
can only bring two distributions closer (the log sum inequality; the triangle inequality), and they are exact where all
entries were kept. Which tokens the bucket's mass lies on is not known; it counts as what the draft can say.

KL is what distilling commonly uses (Hinton et al., arXiv 1503.02531); 1 - TV is the chance that speculative sampling
accepts a candidate (Leviathan et al., arXiv 2211.17192), so TV is what counts in the end (DistillSpec, arXiv
2310.08461).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Of p: below it nothing of a place is for the draft to learn. Of q: the least that a bucket is taken to have.
_TINY = 1e-6
#: ln of a probability that is 0: infinity times 0 is no number.
_IMPOSSIBLE = -1e4


@dataclass(frozen=True, slots=True)
class Divergences:
    """Of each place, float32 [N], nats for `kl`: of p as restricted. counted: bool, whether the draft can say anything
    of p there; the others are 0. overlap: sum_i min(p_i, q_i) over the kept entries, of p as it is: 1 - TV is at least
    this much, and at most `most`, which adds the bucket's."""

    kl: Tensor
    tv: Tensor
    counted: Tensor
    overlap: Tensor
    most: Tensor


class Places:
    """Where tokens stand in the cut vocabulary: what turns the target's ids into the draft's."""

    def __init__(self, token_ids: Tensor, vocabulary_size: int) -> None:
        """token_ids: int [S], rising."""
        self._places = torch.full((vocabulary_size,), -1, dtype=torch.int64, device=token_ids.device)
        self._places[token_ids.long()] = torch.arange(len(token_ids), device=token_ids.device)

    def __call__(self, ids: Tensor) -> Tensor:
        """int64 of the same shape; -1: the draft cannot say it."""
        return self._places[ids.long()]


def divergences(logits: Tensor, top_places: Tensor, top_log_probs: Tensor) -> Divergences:
    """logits: [N, S], of the draft. top_places: int64 [N, K], of the target's likeliest tokens, -1 for those that the
    draft cannot say. top_log_probs: [N, K], nats, of the whole vocabulary."""
    logits = logits.float()
    can = top_places >= 0
    log_q = logits.gather(1, top_places.clamp(min=0)) - logits.logsumexp(1, keepdim=True)
    log_q = log_q.masked_fill(~can, 0.0)
    q = log_q.exp() * can
    log_p = top_log_probs.float().clamp(min=_IMPOSSIBLE)
    whole = log_p.exp()
    p = whole * can
    rest = (1 - whole.sum(1)).clamp(min=0)
    q_rest = (1 - q.sum(1)).clamp(min=_TINY)

    mass = p.sum(1) + rest
    counted = mass > _TINY
    scale = counted / mass.clamp(min=_TINY)
    log_scale = scale.clamp(min=_TINY).log()
    p_here, rest_here = p * scale[:, None], rest * scale
    kl = (p_here * (log_p.masked_fill(~can, 0.0) + log_scale[:, None] - log_q)).sum(1)
    kl = kl + torch.xlogy(rest_here, rest_here) - rest_here * q_rest.log()
    tv = ((p_here - q).abs().sum(1) + (rest_here - q_rest).abs()) / 2
    overlap = torch.minimum(p, q).sum(1)
    most = overlap + torch.minimum(rest, q_rest)
    return Divergences(kl * counted, tv * counted, counted, overlap, most)


def loss(divergence: Divergences, total_variation: float) -> Tensor:
    """The sum over all places, a number. total_variation: the weight of TV beside KL."""
    return (divergence.kl + total_variation * divergence.tv).sum()
