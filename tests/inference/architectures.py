"""Tiny random models of the architectures that are served, each with the plain transformers model beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import ModelRunner

VOCABULARY = 96
CONTEXT = 128
_WINDOW = 7
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
_LAYERS = ["sliding_attention", "full_attention"]

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral, sliding window": MistralConfig(**SHAPE, sliding_window=_WINDOW),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, sliding window": Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=_WINDOW, layer_types=_LAYERS
    ),
    "qwen3": Qwen3Config(**SHAPE, head_dim=12),
    "gemma2, soft cap": Gemma2Config(
        **SHAPE, head_dim=12, sliding_window=_WINDOW, layer_types=_LAYERS, attn_logit_softcapping=5.0
    ),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=12, sliding_window=_WINDOW, layer_types=_LAYERS),
    "gpt-neox": GPTNeoXConfig(**{key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The runner under test and the model that it must agree with."""

    runner: ModelRunner
    plain: PreTrainedModel

    def expected(self, tokens: Sequence[int], rows: int) -> Tensor:
        """Plain transformers over the whole text at once: logits [rows, V] of the last tokens."""
        with torch.inference_mode():
            logits = self.plain(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
        return logits[len(tokens) - rows :]


def load(model: PreTrainedModel, context: int = CONTEXT) -> LoadedModel:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedModel(model, VOCABULARY, context, "float32", parameters, (), torch.device("cpu"))


def pair(config: PreTrainedConfig) -> Pair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        # Soft-capped attention is only right in transformers' eager code.
        plain = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    plain = plain.eval().requires_grad_(False)
    return Pair(ModelRunner(load(copy.deepcopy(plain))), plain)
