"""`python -m tandem.models.quantise IN OUT`: the layers of a draft as int8 per row, a quarter of fp32's size.

Each matrix W [rows, columns] becomes int8 W8 and fp32 scale [rows] with W = W8 * scale; vectors (norms) are kept.
Needs torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_SCALE = ".scale"


def quantise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """int8 and `NAME.scale` for every matrix; everything else as it is."""
    result = {}
    for name, weight in weights.items():
        if weight.dim() != 2:
            result[name] = weight
            continue
        scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-12)
        result[name] = torch.round(weight.float() / scale[:, None]).to(torch.int8)
        result[name + _SCALE] = scale
    return result


def dequantise(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inverse, in `dtype`; accepts weights that were never quantised. Raises ValueError."""
    result = {}
    for name, weight in weights.items():
        if name.endswith(_SCALE):
            continue
        scale = weights.get(name + _SCALE)
        if weight.dtype == torch.int8 and (scale is None or scale.shape != weight.shape[:1]):
            raise ValueError(f"{name} is int8, but {name}{_SCALE} does not have a number for each row")
        result[name] = (weight.to(dtype) if scale is None else (weight.float() * scale[:, None]).to(dtype)).contiguous()
    return result


if __name__ == "__main__":
    source, target = sys.argv[1:]
    save_file(quantise(load_file(source)), target)
