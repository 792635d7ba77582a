"""Layers of integers against the weights that they stand for, multiplied out in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tandem.inference.quantised_linear import (
    GROUP,
    Int4Linear,
    Int8Head,
    Int8Linear,
    NotFiniteError,
    QuantisedLinear,
    fit_int4,
    fit_int8,
)

BF16 = 2.0**-8  # most that rounding to bfloat16 changes, relative
KINDS = [Int8Linear, Int4Linear]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unpacked(weight: Tensor, kind: type[QuantisedLinear]) -> Tensor:
    """What the layer of `weight` should multiply by, [N, K] in fp32."""
    if kind is not Int4Linear:
        levels, scale = fit_int8(weight)
        return levels.float() * scale.float()[:, None]
    levels, scale, centre = fit_int4(weight)
    spread = [numbers.float().repeat_interleave(GROUP, 1) for numbers in (scale, centre)]
    return (levels.float() - 8) * spread[0] + spread[1]


def q4_1(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Levels [rows, columns] and weights as GGUF's Q4_1 has them: level * scale + minimum with both in fp16, by groups
    of 32 that use the first and the last of 16 levels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, columns // GROUP, GROUP)
    levels = torch.randint(0, 16, shape, generator=generator)
    levels[..., 3], levels[..., 20] = 0, 15
    scale = (torch.rand(*shape[:2], 1, generator=generator) * 0.02 + 1e-4).half().float()
    minimum = (-scale * (4 + 8 * torch.rand(*shape[:2], 1, generator=generator))).half().float()
    return levels.flatten(1), (levels * scale + minimum).flatten(1)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_that_had_16_levels_get_them_back(stored: torch.dtype) -> None:
    """Also after they were rounded to bfloat16. Scale and centre are rounded so once each, and no weight suffers more
    than from these two; on average it is little more than from one."""
    levels, weight = q4_1(64, 256)
    found, _, _ = fit_int4(weight.to(stored))
    assert torch.equal(found.long(), levels)
    widest = weight.unflatten(1, (-1, GROUP)).abs().amax(2).repeat_interleave(GROUP, 1)
    error = (unpacked(weight.to(stored), Int4Linear) - weight).abs() / widest
    assert error.max() < 2 * BF16
    assert error.mean() < 1.5 * ((weight.bfloat16().float() - weight).abs() / widest).mean()


def test_scale_and_centre_are_the_best_for_their_levels() -> None:
    """What is left is orthogonal to the levels and has no mean, but for the rounding of both to bfloat16."""
    weight = normal(32, 128)
    levels, scale, centre = fit_int4(weight)
    offsets = levels.float().unflatten(1, (-1, GROUP))
    offsets -= offsets.mean(2, keepdim=True)
    left = (weight - unpacked(weight, Int4Linear)).unflatten(1, (-1, GROUP))
    assert ((offsets * left).sum(2).abs() <= BF16 * scale.float() * offsets.square().sum(2)).all()
    assert (left.mean(2).abs() <= BF16 * centre.float().abs() + 1e-6).all()


def test_scale_and_centre_are_better_than_those_of_the_extremes() -> None:
    weight = normal(32, 128)
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    step = (high - low) / 15
    between = torch.round((groups - low) / step) * step + low
    error = (unpacked(weight, Int4Linear) - weight).square().mean()
    assert error < 0.97 * (between.flatten(1) - weight).square().mean()
    assert (unpacked(weight, Int4Linear) - weight).abs().max() < 0.75 * step.max()


def test_int8_is_within_half_a_step_of_every_weight() -> None:
    weight = normal(32, 64) * torch.logspace(-6, 3, 32)[:, None]
    levels, scale = fit_int8(weight)
    assert levels.abs().amax(1).min() >= 126
    # The scale is rounded before the levels are taken, so the greatest may be cut by that rounding.
    limit = scale.float() / 2 + weight.abs().amax(1) * BF16 / 2
    assert ((unpacked(weight, Int8Linear) - weight).abs() <= limit[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.75, -3.5, 1e-30, 1e30])
def test_equal_weights_stay_what_they_are(kind: type[QuantisedLinear], value: float) -> None:
    weight = torch.full((16, 64), value)
    weight[3, 40] = 2 * value  # beside groups, and rows, of equal ones
    torch.testing.assert_close(unpacked(weight, kind), weight, rtol=0.01, atol=0)  # half of one of 127 steps


@pytest.mark.parametrize("kind", [*KINDS, Int8Head])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(kind: type[QuantisedLinear], value: float) -> None:
    weight = normal(16, 64)
    weight[15, 33] = value
    with pytest.raises(NotFiniteError, match="not finite"):
        kind(weight, None, shared=False) if kind is Int8Head else kind(weight, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 47, 48, 100])
def test_the_product_is_that_of_the_weights_it_stands_for(
    kind: type[QuantisedLinear], dtype: torch.dtype, rows: int
) -> None:
    weight, bias = normal(48, 96) + 0.5, normal(48, seed=2)  # not centred, so that the minimum matters
    inputs = (normal(2, rows, 96, seed=1) + 0.5).to(dtype)
    outputs = kind(weight, bias.to(dtype))(inputs)
    assert (outputs.dtype, outputs.shape) == (dtype, (2, rows, 48))
    expected = linear(inputs.bfloat16().float(), unpacked(weight, kind), bias.to(dtype).float())
    # The kernel's result is rounded before the bias is added; its terms before they are.
    torch.testing.assert_close(outputs.float(), expected, rtol=2 * BF16, atol=2 * BF16 * 96**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_is_the_layers_own(kind: type[QuantisedLinear]) -> None:
    bias = torch.ones(16)
    layer = kind(normal(16, 32), bias)
    inputs = normal(3, 32)
    before = layer(inputs)
    bias.zero_()
    assert torch.equal(layer(inputs), before)


def test_large_weights_are_fitted_in_parts_that_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(40, 64)
    whole = [*fit_int4(weight), *fit_int8(weight)]
    monkeypatch.setattr("tandem.inference.quantised_linear._ROWS", 16)
    assert all(map(torch.equal, [*fit_int4(weight), *fit_int8(weight)], whole))


@pytest.mark.parametrize("kind, sizes", [
    (Int8Linear, {(7, 16): True, (1, 48): True, (16, 8): False, (16, 40): False}),
    (Int4Linear, {(16, 32): True, (48, 96): True, (24, 32): False, (16, 48): False, (16, 16): False}),
])  # fmt: skip
def test_sizes_that_the_kernels_take(
    kind: type[Int8Linear] | type[Int4Linear], sizes: dict[tuple[int, int], bool]
) -> None:
    for (outputs, inputs), expected in sizes.items():
        assert kind.takes(outputs, inputs) is expected
        if expected:
            weight, given = normal(outputs, inputs), normal(3, inputs)
            torch.testing.assert_close(
                kind(weight)(given), given.bfloat16().float() @ unpacked(weight, kind).T, rtol=0.02, atol=0.02
            )


@pytest.mark.parametrize("shared", [True, False])
def test_the_head_tells_tokens_apart_that_bfloat16_does_not(shared: bool) -> None:
    """Logits near 20 whose differences of .01 are a tenth of what a bfloat16 can say."""
    hidden = torch.ones(1, 1, 64)
    weight = normal(200, 64) * 0.01
    weight[40:50] = 20 / 64
    weight[40:50, 7] += torch.arange(10) * 0.01
    logits = Int8Head(weight, shared=shared)(hidden)
    assert logits.dtype == torch.float32 and logits.shape == (1, 1, 200)
    exact = linear(hidden, weight if shared else unpacked(weight, Int8Linear))
    torch.testing.assert_close(logits[..., 40:50], exact[..., 40:50], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits, exact, rtol=BF16, atol=0.02)
    if shared:
        assert logits[0, 0].argsort(descending=True)[:10].tolist() == list(range(49, 39, -1))


@pytest.mark.parametrize("size", [5, 300])
def test_the_heads_bias_counts_in_every_logit(size: int) -> None:
    weight, bias, hidden = normal(size, 32), normal(size, seed=1) * 10, normal(4, 32, seed=2).bfloat16()
    logits = Int8Head(weight, bias.bfloat16(), shared=True)(hidden)
    expected = linear(hidden.float(), weight, bias.bfloat16().float())
    torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.2)
