"""A model whose attention cannot be served is refused when it is loaded, by its name."""

from __future__ import annotations

import copy

import pytest
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    PreTrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.llama import modeling_llama

from tandem.inference.runner import ModelRunner
from tandem.inference.support import check_supported
from tandem.models import UnsupportedModelError
from tests.inference.architectures import CONFIGS, load

_SMALL = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


def test_the_architectures_that_are_served_are_not_refused() -> None:
    for config in CONFIGS.values():
        check_supported(AutoModelForCausalLM.from_config(copy.deepcopy(config)))


@pytest.mark.parametrize(
    "config, name, reason",
    [
        (BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4), "BloomForCausalLM", "attention interface"),
        (MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2), "MambaForCausalLM", "attention interface"),
        (
            GptOssConfig(**_SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=8),
            "GptOssForCausalLM",
            "s_aux",
        ),
        (
            LlamaConfig(**_SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "LlamaForCausalLM",
            "dynamic",
        ),
    ],
    ids=["no-interface", "no-attention", "sinks", "angles-of-the-longest"],
)
def test_what_cannot_be_served_is_named(config: PreTrainedConfig, name: str, reason: str) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match=f"{name} cannot be served: .*{reason}"):
        ModelRunner(load(model))


def test_an_encoder_decoder_is_refused() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=96, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8))
    with pytest.raises(UnsupportedModelError, match="T5ForConditionalGeneration .*encoder-decoder"):
        check_supported(model)


@pytest.mark.parametrize(
    "facts", [{"num_kv_shared_layers": 1}, {"layer_types": ["full_attention", "chunked_attention"]}]
)
def test_layers_that_a_cache_of_its_own_cannot_serve_are_refused(facts: dict[str, object]) -> None:
    model = LlamaForCausalLM(LlamaConfig(**_SMALL))
    vars(model.config).update(facts)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM cannot be served"):
        check_supported(model)


def test_a_window_that_is_only_in_the_mask_is_refused() -> None:
    """Such a layer would attend to everything, since the mask is not built."""
    model = LlamaForCausalLM(LlamaConfig(**_SMALL))
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UnsupportedModelError, match="layer 1 does not say what its window is"):
        ModelRunner(load(model))


def test_layers_that_attend_by_themselves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model claims the interface, but its attention never calls it."""
    model = LlamaForCausalLM(LlamaConfig(**_SMALL))
    monkeypatch.setattr(
        modeling_llama.LlamaAttention, "forward", lambda self, hidden_states, **_: (hidden_states, None)
    )
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM cannot be served: only 0 of its 2 layers"):
        ModelRunner(load(model))
