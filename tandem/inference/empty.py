"""Models whose weights are given to them, and which of these a draft shares with its target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class SharedNames:
    """Names of weights in a model's state. embedding: of the input; head: of the output layer, tied or not."""

    embedding: frozenset[str]
    head: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        return self.embedding | self.head


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Parameters are on the meta device, to be assigned: no memory for, and no time on, weights that would be replaced.
    Buffers that no file holds (rotary frequencies) have their values."""
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def shared_names(model: PreTrainedModel) -> SharedNames:
    modules = {module: name for name, module in model.named_modules()}
    parts = []
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        parts.append(frozenset(f"{modules[module]}.{name}" for name in module.state_dict()))
    return SharedNames(*parts)
