"""Two processes with half of a model each give the logits of one that has it all, whatever is batched or dropped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from tandem.inference.loading import load_model
from tandem.inference.runner import ModelRunner
from tandem.models import resolve
from tests.inference.architectures import CONFIGS, SHAPE
from tests.inference.parallel_driver import CACHE_BYTES
from tests.inference.parallel_scenario import play
from tests.support.ranks import group

_MODELS: dict[str, PreTrainedConfig] = {
    "llama": CONFIGS["llama"],
    "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    # Neither the rows of the output layer nor those of the middle divide by two.
    "llama-uneven": LlamaConfig(**{**SHAPE, "vocab_size": 97, "intermediate_size": 47}),
    "qwen2-biases": CONFIGS["qwen2"],
    "qwen3-norms": CONFIGS["qwen3"],
    "gemma3-window": CONFIGS["gemma3"],
    "gpt-neox-joined": CONFIGS["gpt-neox"],
    # Whose plan splits the weights of attention but not its heads.
    "phi3-whole-heads": Phi3Config(**SHAPE),
    "deepseek-latent": DeepseekV3Config(
        **{**SHAPE, "num_key_value_heads": 4}, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
        n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12,
    ),
    "qwen3-experts": Qwen3MoeConfig(**SHAPE, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, config in _MODELS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
            for key, parameter in model.named_parameters():
                if key.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.3)
            model.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def of_two(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By model, what rank 0 of two saw."""
    folder = tmp_path_factory.mktemp("seen")
    file = folder / "results.pt"
    with group("tests.inference.parallel_driver", folder, str(models), str(file)) as ranks:
        for rank in ranks:
            assert rank.end() == 0, rank.log
    return torch.load(file, weights_only=False)


def test_two_processes_give_the_logits_of_one(models: Path, of_two: dict[str, Any]) -> None:
    for name in _MODELS:
        loaded = load_model(resolve(str(models / name)), dtype="float32", device="cpu")
        expected, got = play(ModelRunner(loaded, cache_bytes=CACHE_BYTES)), of_two[name]
        assert len(expected["forward"]) == len(got["forward"]) and expected["served"].keys() == got["served"].keys()
        for place, (ours, theirs) in enumerate(zip(expected["forward"], got["forward"], strict=True)):
            _agree(theirs, ours, f"{name}, block {place}")
        for key, ours in expected["served"].items():
            _agree(got["served"][key], ours, f"{name}, sequence and turn {key}")
        # The scenario has had what it is there for.
        assert got["preemptions"] > 0 and got["found"] > 0


def test_each_process_has_half_of_the_weights_and_of_the_cache(of_two: dict[str, Any]) -> None:
    for name in ("llama", "gpt-neox-joined", "qwen3-experts"):
        got, config = of_two[name], _MODELS[name]
        whole = AutoModelForCausalLM.from_config(config)
        assert got["shape"].heads == getattr(config, "num_key_value_heads", config.num_attention_heads) // 2
        assert got["entries"] * got["shape"].bytes <= CACHE_BYTES < (got["entries"] + 16) * got["shape"].bytes
        assert got["parameters"] == sum(weight.numel() for weight in whole.parameters())
        # Norms, routers and biases of row-wise layers are in both.
        assert got["parameters"] / 2 < got["held"] < 0.6 * got["parameters"]


def _agree(got: Tensor, expected: Tensor, where: str) -> None:
    """To rounding: a hundred-thousandth of the largest logit."""
    assert got.dtype == torch.float32 and got.shape == expected.shape, where
    if len(expected):
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), where
