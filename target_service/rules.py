"""The exact rules of verification as formulas on tensors, for any number of sequences at once.

`p` is the target's law, `q` the draft's, float64 [..., V] unless said otherwise; `x` a drafted token. Which rules:
ratio test: Leviathan et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318);
block verification: Sun et al., ICLR 2025 (arXiv 2403.10444), section 4.
Every formula also takes rows gathered at the tokens of q (its support), with p's mass elsewhere as `p_rest`: outside
q's support max(w p - q, 0) is w p.
"""

from __future__ import annotations

import torch
from torch import Tensor


def likelihood_ratio(p_x: Tensor, q_x: Tensor) -> Tensor:
    """p(x) / q(x), elementwise; infinite where only q(x) is 0, and 0 where both are."""
    return torch.where(p_x > 0, p_x / q_x, 0.0)


def ratio_acceptance(p_x: Tensor, q_x: Tensor) -> Tensor:
    """Probability of accepting x under the ratio test, min(1, p(x)/q(x)), elementwise."""
    return likelihood_ratio(p_x, q_x).clamp(max=1.0)


def residual(p: Tensor, q: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """What the correction is drawn from, not normalised: max(w p - q, 0), [..., V].

    weight: [...] or a number; 1 for the ratio test, w_i for block verification.
    """
    if isinstance(weight, Tensor):
        weight = weight.unsqueeze(-1)
    return (weight * p - q).clamp_(min=0.0)


def block_weights(p_x: Tensor, q_x: Tensor) -> Tensor:
    """w_0 .. w_n of block verification: [..., n + 1] from p and q of the n candidates, [..., n].

    w_0 = 1, w_i = min(1, w_{i-1} p_i(x_i) / q_i(x_i)).
    """
    ratios = likelihood_ratio(p_x, q_x)
    weights = [torch.ones_like(ratios[..., :1])]
    for ratio in ratios.split(1, dim=-1):
        weights.append((weights[-1] * ratio).nan_to_num(nan=0.0).clamp(max=1.0))  # NaN: 0 times infinity
    return torch.cat(weights, dim=-1)


def surplus(p: Tensor, q: Tensor, weight: Tensor, p_rest: Tensor | float = 0.0) -> Tensor:
    """s = sum of max(w p - q, 0): [...]; p_rest: p's mass outside the entries given."""
    return residual(p, q, weight).sum(-1) + weight * p_rest


def block_acceptance(weights: Tensor, surpluses: Tensor) -> Tensor:
    """h_1 .. h_n of block verification: [..., n] from w_0 .. w_n [..., n + 1] and s_0 .. s_{n-1} [..., n].

    h_i = s_i / (s_i + 1 - w_i) for i < n, h_n = w_n; the longest prefix i with u_i < h_i is kept. Where w_i = 1 it
    is 1, also for p = q next, where s_i = 0. s_0 is not read.
    """
    inner, last = weights[..., 1:-1], weights[..., -1:]
    s = surpluses[..., 1:]
    inner = torch.where(inner >= 1, 1.0, s / (s + 1 - inner))
    return torch.cat([inner, last], dim=-1)
