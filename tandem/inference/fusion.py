"""Rewrites of a model that leave its results as they are and take fewer and quicker calls.

With quantised weights the layers of a small model take less time than what lies between them.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def shared_inputs(model: PreTrainedModel) -> list[list[str]]:
    """Names of linear layers, grouped where they follow one another and read the very same tensor (queries, keys and
    values; gate and up), in the order of a forward pass over two tokens. Layers that did not run are not named."""
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules() if type(module) is nn.Linear}
    groups: list[list[str]] = []
    # The tensor itself is kept, so that no later one can be taken for it; the copy shows changes made in place.
    last: tuple[Tensor, Tensor] | None = None

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal last
        name = names[module]
        if last is not None and inputs[0] is last[0] and torch.equal(*last) and name not in groups[-1]:
            groups[-1].append(name)
        else:
            groups.append([name])
            last = (inputs[0], inputs[0].clone())

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    runs = Counter(name for group in groups for name in group)
    # A layer that ran twice would be one in two groups.
    return [group for group in groups if all(runs[name] == 1 for name in group)]


class Leaf(nn.Module):
    """A layer that nothing hooks into and nothing trains: called without what torch does for those that may be.

    Its tensors are plain attributes, since looking up registered ones takes as long as a small product.
    """

    def __init_subclass__(cls) -> None:
        cls.__call__ = cls.forward  # type: ignore[method-assign]


class Joined:
    """Linear layers over one input as a single one, whose outputs are split. Not for several threads."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        """linear: [..., K] -> [..., sum of sizes]."""
        self.linear = linear
        self._forward, self._sizes = linear.forward, list(sizes)
        self._inputs: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def parts(self) -> list[Part]:
        """A layer for each size."""
        return [Part(self, index) for index in range(len(self._sizes))]

    def take(self, inputs: Tensor, index: int) -> Tensor:
        """Outputs [..., sizes[index]]. The first part to be asked computes all, the others get theirs; an input counts
        as the same when it is the same object."""
        if self._inputs is not inputs or index not in self._outputs:
            self._outputs = dict(enumerate(self._forward(inputs).split_with_sizes(self._sizes, -1)))
            self._inputs = inputs
        output = self._outputs.pop(index)
        if not self._outputs:
            self._inputs = None  # its memory is not ours to hold
        return output


class Part(Leaf):
    """One of the layers that were joined."""

    def __init__(self, joined: Joined, index: int) -> None:
        super().__init__()
        self.joined_linear = joined.linear
        self._joined, self._index = joined, index

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K] -> [..., N of this part]."""
        return self._joined.take(inputs, self._index)


class FusedNorm(Leaf):
    """RMSNorm, x / sqrt(mean(x^2) + eps) * weight, in float32 with one rounding at the end, by five calls for eight.

    The mean is not taken: |x|^2 / K + eps is hypot(|x|, sqrt(K eps))^2 / K, and sqrt(K) is in the weight.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        """weight: [K]."""
        super().__init__()
        size = weight.shape[0]
        self._weight = weight.float() * math.sqrt(size)
        self._eps = torch.tensor(math.sqrt(size * eps), device=weight.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K] -> [..., K] of the same type."""
        length = torch.linalg.vector_norm(inputs, 2, -1, True, dtype=torch.float32)
        return (inputs / torch.hypot(length, self._eps) * self._weight).to(inputs.dtype)


def fuse_norms(model: nn.Module) -> int:
    """Replaces the RMSNorm modules whose results FusedNorm gives, whatever their class; returns how many."""
    count = 0
    for name, module in list(model.named_modules()):
        fused = _fused_norm(module)
        if fused is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, fused)
            count += 1
    return count


def _fused_norm(module: nn.Module) -> FusedNorm | None:
    """One that agrees with `module` in float32 to rounding and gives outputs of the same type, or None."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    parameters = dict(module.named_parameters())
    if not isinstance(eps, float) or parameters.keys() != {"weight"} or parameters["weight"].dim() != 1:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # a gate, say
        return None
    weight = parameters["weight"].detach()
    exact = copy.deepcopy(module).float()
    generator = torch.Generator().manual_seed(0)
    # From far below eps, which then decides the result, to far above.
    scales = torch.tensor([1e-4, 1e-2, 1.0, 100.0])[:, None]
    sample = (torch.randn(4, len(weight), generator=generator) * scales).to(weight.device)
    with torch.inference_mode():
        for candidate in (weight.float(), 1 + weight.float()):  # Gemma keeps the difference from 1
            fused = FusedNorm(candidate, eps)
            agrees = torch.allclose(fused(sample), exact(sample), rtol=1e-5, atol=1e-7)
            if agrees and module(sample.to(weight.dtype)).dtype == weight.dtype:
                return fused
    return None


def quicken_lookups(model: nn.Module) -> None:
    """Makes submodules plain attributes as well, found without `nn.Module.__getattr__`, which is Python."""
    for module in model.modules():
        vars(module).update(module._modules)
