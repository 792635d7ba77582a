"""Weights of linear layers laid out once as the CPU's matrix kernels read them.

Transformers' linear layers hand oneDNN a plain matrix, which it has to walk against its grain in every step. In the
layout that it prefers the same product takes less time, for one row and for hundreds; `python -m bench engine` shows
whole steps beside transformers'.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """x [..., in] -> [..., out] as nn.Linear, on a CPU and for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        # An opaque tensor: neither parameter nor buffer, since nothing else can be done with it.
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


@torch.inference_mode()
def pack_linears(model: nn.Module) -> int:
    """Replaces the linear layers of a model on the CPU by packed ones, in place; returns how many.

    None where this build or processor has no such kernels for the model's type, or where they do not reproduce a
    layer. A weight that is also used elsewhere (a tied embedding) stays beside its packed copy. Layers whose forward
    was replaced (those of a model in shards) are left as they are.
    """
    linears = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    linears = [(name, module) for name, module in linears if "forward" not in vars(module)]
    linears = [(name, module) for name, module in linears if module.weight.device.type == "cpu"]
    if not linears or not _is_sound(min((module for _, module in linears), key=lambda module: module.weight.numel())):
        return 0
    for name, module in linears:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, PackedLinear(module))
    return len(linears)


def _is_sound(linear: nn.Linear) -> bool:
    weight = linear.weight
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:
        packed = PackedLinear(linear)
        for rows in (1, 7):
            x = torch.randn(rows, linear.in_features, generator=torch.Generator().manual_seed(rows)).to(weight.dtype)
            # In bf16 the results are rounded once; by 2^-8 of themselves at most, and sums differ in their last bits.
            tolerance = 2e-2 if weight.dtype == torch.bfloat16 else 1e-4
            expected, got = linear(x).float(), packed(x).float()
            if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
                return False
    except (RuntimeError, NotImplementedError) as error:
        _log.debug("linear layers are not packed: %s", error)
        return False
    return True
