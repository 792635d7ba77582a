"""A quantised model gives what the plain one gives with the weights that its integers stand for."""

from __future__ import annotations

import copy
import logging
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from tandem.inference.fusion import Part
from tandem.inference.loading import load_model
from tandem.inference.precision import quantise
from tandem.inference.quantised_linear import Int4Linear, Int8Head, Int8Linear
from tandem.inference.replay import Replay
from tandem.inference.runner import Block, ModelRunner
from tandem.models import UnsupportedModelError, resolve
from tests.inference.architectures import CONFIGS, VOCABULARY, load
from tests.inference.test_fusion import random_model
from tests.inference.test_quantised_linear import unpacked
from tests.models.checks import refused
from tests.models.folders import save_llama

#: hidden 64, so that what reads it is in whole groups; heads and MLP keep the sizes that are not.
WIDER = {"hidden_size": 64}
#: Inputs are rounded to bfloat16 at each of some 14 layers, and outputs again.
ROUNDING = 0.03


def text(length: int) -> list[int]:
    return random.Random(0).choices(range(VOCABULARY), k=length)


def expected_kind(layer: nn.Linear, weights: str) -> type[Int4Linear] | type[Int8Linear] | None:
    if weights == "int4" and layer.in_features % 32 == 0 and layer.out_features % 16 == 0:
        return Int4Linear
    return Int8Linear if layer.in_features % 16 == 0 else None


def dequantised(model: PreTrainedModel, weights: str) -> PreTrainedModel:
    """A plain copy with the weights that `weights` stands for."""
    plain = copy.deepcopy(model)
    head = plain.get_output_embeddings()
    for layer in [module for module in plain.modules() if isinstance(module, nn.Linear)]:
        kind = Int8Linear if layer is head else expected_kind(layer, weights)
        if kind is not None:  # a new parameter: a tied embedding stays as it was
            layer.weight = nn.Parameter(unpacked(layer.weight, kind), requires_grad=False)
    return plain


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def widened(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    config.update(WIDER)
    return config


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return random_model(widened(CONFIGS[request.param]))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_it_agrees_with_the_weights_that_it_stands_for(model: PreTrainedModel, weights: str) -> None:
    """In prefill and token by token, through the ragged forward that serves it."""
    plain, tokens = dequantised(model, weights), torch.tensor([text(24)])
    with torch.inference_mode():
        expected = plain(input_ids=tokens, use_cache=False).logits[0]
        untouched = model(input_ids=tokens, use_cache=False).logits[0]
    quantise(model, weights)
    runner = ModelRunner(load(model))
    sequence = runner.open()
    rows = runner.forward([Block(sequence, text(24)[:20], 20)])
    rows += [runner.forward([Block(sequence, [token], 1)])[0] for token in text(24)[20:]]
    found = torch.cat(rows)
    assert distance(found, expected) < ROUNDING
    if weights == "int4":  # which are other weights than those that were loaded
        assert distance(untouched, expected) > 2 * ROUNDING


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_linear_layer_of_a_fitting_size_is_replaced(model: PreTrainedModel, weights: str) -> None:
    kinds = {
        name: expected_kind(module, weights)
        for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }  # fmt: skip
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    embedding = model.get_input_embeddings()
    table = embedding.weight.clone()
    quantise(model, weights)
    for name, kind in kinds.items():
        module = model.get_submodule(name)
        if isinstance(module, Part):
            module = module.joined_linear
        assert type(module) is (Int8Head if name == head else kind or nn.Linear), name
    assert model.get_input_embeddings() is embedding and torch.equal(embedding.weight, table)


def test_layers_over_one_input_become_one() -> None:
    model = random_model(widened(CONFIGS["llama"]))
    quantise(model, "int4")
    layer = model.model.layers[0]
    joined = {id(part._joined) for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)}
    assert len(joined) == 1
    assert layer.mlp.gate_proj._joined is layer.mlp.up_proj._joined
    # Each part has its own rows: queries 4 heads, keys 2, of 8.
    inputs = torch.randn(1, 3, 64)
    shapes = [part(inputs).shape[-1] for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)]
    assert shapes == [4 * 8, 2 * 8]


def test_sizes_that_fit_nothing_are_left_and_said(caplog: pytest.LogCaptureFixture) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=52, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=12,
    )  # fmt: skip
    model = random_model(config)
    plain = dequantised(model, "int4")
    with caplog.at_level(logging.INFO):
        quantise(model, "int4")
    # q; o, gate, up, k, v (48 inputs, or outputs that are no multiple of 16) and the head; 52 inputs.
    assert "2 layers int4" in caplog.text and "11 layers int8" in caplog.text
    assert "model.layers.0.mlp.down_proj and 1 more have sizes that cannot be quantised" in caplog.text
    assert type(model.model.layers[1].mlp.down_proj) is nn.Linear
    tokens = torch.tensor([text(8)])
    with torch.inference_mode():
        assert distance(model(input_ids=tokens).logits, plain(input_ids=tokens).logits) < ROUNDING


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_exact_where_the_embedding_has_its_weights(tied: bool) -> None:
    """For its greatest logits, here of a model whose layers add nothing to the embedding."""
    config = widened(CONFIGS["llama"])
    config.update({"tie_word_embeddings": tied, "num_hidden_layers": 1})
    model = random_model(config)
    for layer in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
        layer.weight.zero_()
    plain = copy.deepcopy(model)
    quantise(model, "int4")
    tokens = torch.tensor([text(8)])
    with torch.inference_mode():
        found, expected = model(input_ids=tokens).logits, plain(input_ids=tokens).logits
    greatest = expected.topk(8).indices
    exact = torch.isclose(found.gather(2, greatest), expected.gather(2, greatest), rtol=1e-4, atol=1e-4)
    assert bool(exact.all()) is tied
    assert distance(found, expected) < ROUNDING


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_models_compute_in_float32(name: str) -> None:
    """And are as close to the weights that they stand for as those that were loaded in float32."""
    model = random_model(widened(CONFIGS[name])).bfloat16()
    plain = dequantised(model, "int4").float()
    quantise(model, "int4")
    tokens = torch.tensor([text(24)])
    with torch.inference_mode():
        assert model.get_input_embeddings()(tokens).dtype == torch.float32
        found, expected = model(input_ids=tokens).logits, plain(input_ids=tokens).logits
    assert found.dtype == torch.float32 and not torch.equal(found, found.bfloat16().float())
    assert distance(found, expected) < ROUNDING
    assert ModelRunner(load(model)).cache.shape.dtype == torch.float32


def test_steps_are_recorded() -> None:
    model = random_model(widened(CONFIGS["llama"]))
    quantise(model, "int4")
    assert isinstance(model.forward, Replay)


@pytest.mark.parametrize("name", ["q_proj", "embed_tokens"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, weights: str) -> None:
    config = widened(CONFIGS["llama"])
    config.tie_word_embeddings = True
    model = random_model(config)
    named = next(weight for key, weight in model.named_parameters() if name in key)
    named[20, 33] = float("nan")
    where = "the output layer" if name == "embed_tokens" else "q_proj"
    words = ("LlamaForCausalLM", f"--weights {weights}", where, "not finite", "--weights full")
    with refused(UnsupportedModelError, *words):
        quantise(model, weights)


def test_a_model_with_nothing_to_quantise_is_refused() -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    with refused(UnsupportedModelError, "LlamaForCausalLM", "--weights int8", "no linear layer"):
        quantise(LlamaForCausalLM(config), "int8")


def test_a_model_that_asks_its_layers_for_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(widened(CONFIGS["llama"]))
    inner = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: (model.lm_head.weight, inner(**given))[1])
    with refused(UnsupportedModelError, "LlamaForCausalLM", "--weights int4", "weight"):
        quantise(model, "int4")


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_other_devices_are_refused(weights: str) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIGS["llama"])
    with refused(UnsupportedModelError, "LlamaForCausalLM", f"{weights} weights on meta are not supported yet"):
        quantise(model, weights)


@pytest.mark.parametrize("weights", ["full", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_says_what_the_weights_are(weights: str, dtype: str, tmp_path: Path) -> None:
    saved = save_llama(tmp_path / "tiny")
    loaded = load_model(resolve(str(tmp_path / "tiny")), dtype=dtype, device="cpu", weights=weights)
    assert (loaded.weights, loaded.dtype) == (weights, dtype)
    assert loaded.parameter_count == sum(parameter.numel() for parameter in saved.parameters())
    assert type(loaded.model.lm_head) is (nn.Linear if weights == "full" else Int8Head)
    assert loaded.model.get_input_embeddings().weight.dtype == getattr(torch, dtype)
