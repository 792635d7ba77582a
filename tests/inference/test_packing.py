"""Laying weights out anew changes nothing but the time; where it would, nothing is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tandem.inference import packing
from tandem.inference.packing import PackedLinear, pack_linears
from tests.inference.architectures import CONFIGS, pair

SUPPORTED = torch.backends.mkldnn.is_available()
pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this build of torch has no oneDNN")


def linears(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) is nn.Linear]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_packed_model_computes_what_the_plain_one_does(name: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no such kernels")
    plain = pair(CONFIGS[name]).plain.to(dtype)
    packed = copy.deepcopy(plain)
    assert pack_linears(packed) == len(linears(plain)) > 0
    assert not linears(packed)
    tokens = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        expected, got = (model(input_ids=tokens, use_cache=False).logits.float() for model in (plain, packed))
    tolerance = 1e-4 if dtype == torch.float32 else 0.05 * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (1, 1, 1)])
def test_inputs_of_any_shape_and_biases_are_served(bias: bool, shape: tuple[int, ...]) -> None:
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


def test_a_tied_embedding_stays() -> None:
    model = pair(CONFIGS["gemma3"]).plain  # ties its output layer to its embedding
    before = model.get_input_embeddings().weight.clone()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    pack_linears(model)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.equal(model.get_input_embeddings().weight, before)


class Doubling(PackedLinear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Refusing(PackedLinear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel on this processor")


@pytest.mark.parametrize("kernel", [Doubling, Refusing])
def test_kernels_that_do_not_reproduce_a_layer_are_not_used(
    monkeypatch: pytest.MonkeyPatch, kernel: type[PackedLinear]
) -> None:
    model = pair(CONFIGS["llama"]).plain
    monkeypatch.setattr(packing, "PackedLinear", kernel)
    count = len(linears(model))
    assert pack_linears(model) == 0
    assert len(linears(model)) == count


def test_layers_that_are_more_than_linear_stay() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    model = nn.Sequential(nn.Linear(8, 8), Scaled(8, 8))
    assert pack_linears(model) == 1
    assert type(model[1]) is Scaled
