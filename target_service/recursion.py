"""Recursive rejection: exact verification of candidates for one place that were drawn without replacement.

Candidates x_1 .. x_k of a place are drawn from q one after the other, each without those before it. With p_1 = p and
q_1 = q, candidate j at its turn, all before it rejected, is accepted with probability

    a_j = min(1, p_j(x_j) / q_j(x_j)),

    p_{j+1} = norm(max(p_j - q_j, 0)),    q_{j+1} = q_j without x_j, renormalised,

and where none is accepted the correction comes from p_{k+1}. One turn is the ratio test of p_j and q_j, and x_j was
drawn from q_j given those before it, so what is emitted has the law p_j for each j, from the last back to the first:
the law p (Jeon et al., recursive speculative decoding, arXiv 2402.14160; with replacement, as multi-step speculative
sampling: Miao et al., SpecInfer, arXiv 2305.09781; Chen et al., Sequoia, arXiv 2402.12374). How many candidates a place
has must not depend on what they are.

Formulas for F places at once. Outside the K entries listed of q, p_j is p times a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from target_service.rules import ratio_acceptance, residual


@dataclass(frozen=True, slots=True)
class Turns:
    """What became of p, float64.

    acceptance: a_j, [F, k]; what it says of filled-up places means nothing. stray: whether q_j has no x_j at its turn,
    bool [F, k]. head: p_{k+1} at the listed entries [F, K]; rest: what p is multiplied with elsewhere [F].
    """

    acceptance: Tensor
    stray: Tensor
    head: Tensor
    rest: Tensor


def take_turns(p_head: Tensor, p_rest: Tensor, token_ids: Tensor, q: Tensor, x: Tensor, filled: Tensor) -> Turns:
    """The turns of all places.

    p_head: p at the listed entries [F, K], 0 at padding. p_rest: p's mass elsewhere [F]. token_ids, q: of the listed
    entries [F, K], q 0 at padding. x: candidates by turn [F, k], int64. filled: which of these there are, bool [F, k].
    """
    scale = torch.ones_like(p_rest)
    acceptances, strays = [], []
    for tokens, there in zip(x.unbind(-1), filled.unbind(-1), strict=True):
        matches = (token_ids == tokens.unsqueeze(-1)) & (q > 0)
        p_x, q_x = (p_head * matches).sum(-1), (q * matches).sum(-1)
        acceptances.append(ratio_acceptance(p_x, q_x))
        strays.append(there & ~matches.any(-1))
        left = residual(p_head, q)
        total = left.sum(-1) + p_rest * scale
        # Nothing is left where p <= q everywhere: then p = q, and the candidate is accepted but for rounding. What a
        # correction is then drawn from does no harm [ours].
        goes_on = there & (total > 0)
        total = torch.where(goes_on, total, 1.0)
        p_head = torch.where(goes_on.unsqueeze(-1), left / total.unsqueeze(-1), p_head)
        scale = scale / total
        without = q.masked_fill(matches, 0.0)
        remains = without.sum(-1, keepdim=True)
        without = without / torch.where(remains > 0, remains, 1.0)
        q = torch.where(there.unsqueeze(-1), without, q)
    return Turns(torch.stack(acceptances, -1), torch.stack(strays, -1), p_head, scale)
