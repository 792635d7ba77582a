"""Rewrites change how a model is computed and not what."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from tandem.inference.fusion import FusedNorm, Joined, fuse_norms, quicken_lookups, shared_inputs
from tests.inference.architectures import CONFIGS, VOCABULARY

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """With norms and biases that are not what they start as, so that losing one shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS, use_cache=False).logits


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return random_model(CONFIGS[request.param])


def test_norms_are_replaced_where_the_results_stay(model: PreTrainedModel) -> None:
    expected = logits(model)
    norms = sum("RMSNorm" in type(module).__name__ for module in model.modules())
    assert fuse_norms(model) == norms
    assert sum(isinstance(module, FusedNorm) for module in model.modules()) == norms
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
@pytest.mark.parametrize("shape", [(1, 1, 48), (2, 3, 5, 48)])
def test_a_norm_is_that_of_transformers(dtype: torch.dtype, eps: float, shape: tuple[int, ...]) -> None:
    weight = torch.randn(48).to(dtype)
    norm = LlamaRMSNorm(48, eps).to(dtype)
    norm.weight.data.copy_(weight)
    for size in (0.0, 1e-3, 1.0, 1e4):
        inputs = (torch.randn(shape) * size).to(dtype)
        outputs = FusedNorm(weight, eps)(inputs)
        assert outputs.dtype == dtype
        tolerance = 2**-7 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(outputs, norm(inputs), rtol=tolerance, atol=1e-7)


class _OtherEps(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.weight * hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + 1e-3)


class _Centred(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


class _Gated(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states) if gate is None else super().forward(hidden_states) * gate


class _Louder(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) * 1.001


class _Wider(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states).float()


@pytest.mark.parametrize("kind", [_OtherEps, _Centred, _Gated, _Louder, _Wider, nn.LayerNorm])
def test_a_norm_with_another_formula_is_left_alone(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind(16), kind(16)).bfloat16()
    assert fuse_norms(model) == 0
    assert {type(module) for module in model} == {kind}


def test_layers_that_read_one_input_are_found(model: PreTrainedModel) -> None:
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    groups = shared_inputs(model)
    assert sorted(name for group in groups for name in group) == sorted(layers)
    shapes = sorted({tuple(name.rpartition(".")[2] for name in group) for group in groups})
    if model.config.model_type == "gpt_neox":
        assert all(len(shape) == 1 for shape in shapes)
    else:
        assert shapes == [
            ("down_proj",), ("gate_proj", "up_proj"), ("lm_head",), ("o_proj",), ("q_proj", "k_proj", "v_proj")
        ]  # fmt: skip
    assert all(len({name.rpartition(".")[0] for name in group}) == 1 for group in groups)


class _Layers(nn.Module):
    """Stands for a model: `body` is what it does with its layers."""

    device = torch.device("cpu")

    def __init__(self, body: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self._body = body

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        inputs = torch.ones(*input_ids.shape, 4)
        if self._body == "equal":
            return self.one(inputs) + self.two(inputs.clone())
        if self._body == "changed":
            outputs = self.one(inputs)
            return outputs + self.two(inputs.mul_(2))
        return self.two(inputs) + self.one(inputs) + self.one(inputs)


@pytest.mark.parametrize("body, expected", [
    ("equal", [["one"], ["two"]]), ("changed", [["one"], ["two"]]), ("twice", []),
])  # fmt: skip
def test_inputs_that_are_not_one_are_told_apart(body: str, expected: list[list[str]]) -> None:
    assert shared_inputs(_Layers(body)) == expected  # type: ignore[arg-type]


def test_finding_leaves_nothing_behind() -> None:
    model = random_model(CONFIGS["llama"])
    shared_inputs(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


class _Counting(nn.Linear):
    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs)


def test_parts_give_what_the_whole_does_and_compute_it_once() -> None:
    whole = _Counting(4, 6)
    first, second, third = Joined(whole, [1, 2, 3]).parts()
    for round_number in range(1, 4):
        inputs = torch.randn(2, 4)
        expected = nn.Linear.forward(whole, inputs)
        got = torch.cat([first(inputs), second(inputs), third(inputs)], -1)
        assert torch.equal(got, expected) and whole.calls == round_number


def test_parts_that_are_asked_in_any_order_answer_for_their_own_input() -> None:
    whole = nn.Linear(4, 5)
    first, second = Joined(whole, [2, 3]).parts()
    one, other = torch.randn(1, 4), torch.randn(1, 4)
    for part, inputs, columns in [
        (second, one, slice(2, 5)), (second, one, slice(2, 5)), (first, other, slice(0, 2)),
        (first, one, slice(0, 2)), (second, other, slice(2, 5)), (second, one, slice(2, 5)),
    ]:  # fmt: skip
        assert torch.equal(part(inputs), whole(inputs)[:, columns])


def test_no_input_is_held_once_all_parts_have_been_given() -> None:
    joined = Joined(nn.Linear(4, 5), [2, 3])
    first, second = joined.parts()
    inputs = torch.randn(1, 4)
    first(inputs)
    assert joined._inputs is inputs
    second(inputs)
    assert joined._inputs is None and joined._outputs == {}


def test_quick_lookups_find_the_same_modules_and_later_ones(model: PreTrainedModel) -> None:
    expected = logits(model)
    quicken_lookups(model)
    assert torch.equal(logits(model), expected)
    name, module = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    parent = model.get_submodule(name.rpartition(".")[0])
    replaced = nn.Linear(module.in_features, module.out_features)
    setattr(parent, name.rpartition(".")[2], replaced)
    assert getattr(parent, name.rpartition(".")[2]) is replaced
    assert logits(model).shape == (1, TOKENS.shape[1], VOCABULARY) and not torch.equal(logits(model), expected)


def test_the_norms_tested_are_those_of_a_model() -> None:
    model = random_model(CONFIGS["qwen3"])
    inside = [type(module).__name__ for layer in model.modules() if isinstance(layer, nn.Module)
              for name, module in layer.named_children() if name == "q_norm"]  # fmt: skip
    assert inside and fuse_norms(model) > len(inside)
    assert LlamaAttention.__name__ not in inside
