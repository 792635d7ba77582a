"""Linear layers whose weights are held as integers, for torch's packed CPU kernels.

Both kernels are quick for bfloat16 inputs only: in float32 and float16 they are ten to forty times slower, slower than
plain layers. So inputs are rounded to bfloat16, and what the kernels multiply by is fitted as the bfloat16 number that
it will be. Outputs have the type of the inputs; inside, sums are float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from tandem.inference.fusion import Leaf

#: Weights that share a scale and a centre in int4: the group of GGUF's Q4_1.
GROUP = 32
_LEVELS = 15
#: The int4 kernel takes levels from -8 to 7.
_CENTRE = 8
#: From this many rows on, a plain product with the int8 weights as bfloat16, which holds them exactly, is quicker.
_MANY_ROWS = 48
#: Logits of the output layer that are computed again: more than a draw looks at, and still no cost.
_AGAIN = 32
#: Rows fitted at a time, which bounds the memory that float32 copies take.
_ROWS = 4096


class NotFiniteError(ValueError):
    """Weights that no integers stand for: they hold, or come to, infinity or NaN."""


def fit_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [N, K] -> levels int8 [N, K] in [-127, 127] and scale bfloat16 [N]: a weight is about level * scale.

    Raises NotFiniteError.
    """
    levels, scale = _by_rows(_fit_int8, weight)
    return levels, scale


def _fit_int8(weight: Tensor) -> tuple[Tensor, ...]:
    weight = weight.float()
    scale = _finite(weight.abs().amax(1) / 127).to(torch.bfloat16)
    levels = torch.round(weight / _divisor(scale.float())[:, None]).clamp_(-127, 127)
    return levels.to(torch.int8), scale


def fit_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight [N, K] -> levels uint8 [N, K] in [0, 15], scale and centre bfloat16 [N, K / GROUP]: a weight is about
    (level - 8) * scale + centre, with those of its group.

    Levels lie evenly between a group's least and greatest weight, which finds again the levels of weights that had 16
    of them and were rounded since. For these levels, scale and centre are the best in squares. Raises NotFiniteError.
    """
    levels, scale, centre = _by_rows(_fit_int4, weight)
    return levels, scale, centre


def _fit_int4(weight: Tensor) -> tuple[Tensor, ...]:
    groups = weight.float().unflatten(1, (-1, GROUP))
    low = groups.amin(2, keepdim=True)
    step = _finite((groups.amax(2, keepdim=True) - low) / _LEVELS)
    levels = torch.round((groups - low) / _divisor(step)).clamp_(0, _LEVELS)
    mean = levels.mean(2)
    offsets = levels - mean[..., None]
    scale = (offsets * groups).sum(2) / _divisor(offsets.square().sum(2))  # 0 for a group of equal weights
    scale = scale.to(torch.bfloat16)
    centre = groups.mean(2) - (mean - _CENTRE) * scale.float()
    return levels.flatten(1).to(torch.uint8), scale, centre.to(torch.bfloat16)


def _by_rows(fit: Callable[[Tensor], tuple[Tensor, ...]], weight: Tensor) -> list[Tensor]:
    parts = [fit(rows) for rows in weight.split(_ROWS)]
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def _finite(numbers: Tensor) -> Tensor:
    if not torch.isfinite(numbers).all():
        raise NotFiniteError("it has weights that are not finite")
    return numbers


def _divisor(numbers: Tensor) -> Tensor:
    return numbers.masked_fill(numbers == 0, 1.0)


class QuantisedLinear(Leaf):
    """What the kinds share: the product is of rows in bfloat16; the input's type and leading dimensions come back."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._bias = None if bias is None else bias.detach().clone()

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the type of `inputs`."""
        outputs = self._product(inputs.reshape(-1, self.in_features).to(torch.bfloat16)).to(inputs.dtype)
        if self._bias is not None:
            outputs += self._bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _product(self, rows: Tensor) -> Tensor:
        """bfloat16 [rows, K] -> [rows, N]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._bias is not None}"


class Int8Linear(QuantisedLinear):
    """int8 weights with a scale for each output."""

    name = "int8"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight: [N, K] on the CPU, of sizes that `takes` allows. Raises NotFiniteError."""
        super().__init__(weight, bias)
        self._levels, self._scale = fit_int8(weight)

    @staticmethod
    def takes(outputs: int, inputs: int) -> bool:
        # The kernel reads beyond the end of rows of other lengths.
        return inputs % 16 == 0

    def _product(self, rows: Tensor) -> Tensor:
        if len(rows) < _MANY_ROWS:
            return torch._weight_int8pack_mm(rows, self._levels, self._scale)
        return linear(rows, self._levels.to(torch.bfloat16)) * self._scale


class Int4Linear(QuantisedLinear):
    """int4 weights with a scale and a centre for each group of 32 inputs of an output."""

    name = "int4"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight: [N, K] on the CPU, of sizes that `takes` allows. Raises NotFiniteError."""
        super().__init__(weight, bias)
        levels, scale, centre = fit_int4(weight)
        self._levels = torch._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
        self._groups = torch.stack([scale.T, centre.T], 2).contiguous()

    @staticmethod
    def takes(outputs: int, inputs: int) -> bool:
        return inputs % GROUP == 0 and outputs % 16 == 0

    def _product(self, rows: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(rows, self._levels, GROUP, self._groups)


class Int8Head(Int8Linear):
    """An output layer in int8. Logits are float32 whatever the type of the input.

    What the kernel gives is bfloat16, in which the likeliest tokens are often equal: near 20 its numbers are .125
    apart. So the greatest logits are computed again in float32, from the embedding's weights where the output layer
    shares them, since those stay in memory, and from the int8 ones elsewhere.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, shared: bool) -> None:
        """weight: [V, K]; kept, not copied, where it is `shared`. Raises NotFiniteError."""
        super().__init__(weight, bias)
        self._shared = weight if shared else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K] -> float32 [..., V]."""
        rows = inputs.reshape(-1, self.in_features)
        rounded = self._product(rows.to(torch.bfloat16))
        again = rounded.topk(min(_AGAIN, self.out_features), sorted=False).indices  # [rows, again]
        logits = rounded.float()
        if self._shared is not None:
            weights = self._shared[again].float()
        else:
            weights = self._levels[again].float() * self._scale[again].float()[..., None]
        logits.scatter_(1, again, (weights @ rows.float()[..., None])[..., 0])
        if self._bias is not None:
            logits += self._bias
        return logits.view(*inputs.shape[:-1], self.out_features)
