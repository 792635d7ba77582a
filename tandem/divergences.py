"""Entropy and distances of distributions over tokens.

The Jensen-Shannon distance is the square root of the divergence in bits, so both lie in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tandem.selection import top_values

_LOG2_E = 1 / math.log(2)


def exp(x: Tensor) -> Tensor:
    """e**x, elementwise, to within |x| units in the last place.

    By way of 2**x: on the CPU `torch.exp` takes three to four times as long (it calls a library that suits other
    processors), and over the rows of a vocabulary that was a third of all computing after the forward pass.
    """
    return x.mul(_LOG2_E).exp2_()


def exp_(x: Tensor) -> Tensor:
    """`exp`, in place."""
    return x.mul_(_LOG2_E).exp2_()


def entropy(log_p: Tensor) -> Tensor:
    """Shannon entropy in nats: [...] of log-probabilities [..., V] (-infinity allowed), in their dtype."""
    return -torch.linalg.vecdot(exp(log_p), log_p.clamp(min=-1e4))


def top3_entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of the three likeliest tokens, renormalised: [...] of [..., V]."""
    return entropy_of_top(top_values(log_p, min(3, log_p.shape[-1])))


def entropy_of_top(log_p: Tensor) -> Tensor:
    """Entropy in nats of the entries given, renormalised: [...] of some of a row's log-probabilities [..., k]."""
    return entropy(torch.log_softmax(log_p, dim=-1))


def divergence_terms(p: Tensor, q: Tensor) -> Tensor:
    """What each token adds to the Jensen-Shannon divergence, in bits: elementwise, never negative."""
    m = (p + q) / 2
    terms = torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)
    return terms.nan_to_num_(nan=0.0).clamp_(min=0.0) / (2 * math.log(2))  # NaN: p = q = 0


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, in [0, 1]: [...] of probabilities [..., V]."""
    return divergence_terms(p, q).sum(-1).clamp(max=1.0)


def js_distance(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon distance, the root of the divergence in bits, in [0, 1]: [...] of probabilities [..., V]."""
    return js_divergence(p, q).sqrt()


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance, in [0, 1]: [...] of probabilities [..., V]."""
    return (p - q).abs().sum(-1) / 2
