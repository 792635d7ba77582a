"""int8 per row: how far a weight may move, and that nothing but a whole file is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tandem.models.quantise import dequantise, quantise
from tests.models.checks import refused


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """Rows of very different sizes, some of zeros."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.sampled_from([0.0, 1e-20, 1e-6, 0.05, 1.0, 3e4]), min_size=rows, max_size=rows))
    weight = torch.randn(rows, columns, generator=generator) * torch.tensor(sizes)[:, None]
    return weight.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


@settings(max_examples=300, deadline=None)
@given(weight=matrices())
def test_no_weight_moves_by_more_than_half_a_step(weight: Tensor) -> None:
    stored = quantise({"w": weight})
    scale = stored["w.scale"]
    assert stored["w"].dtype == torch.int8 and stored["w"].shape == weight.shape
    assert scale.dtype == torch.float32 and scale.shape == weight.shape[:1] and bool((scale > 0).all())
    assert int(stored["w"].to(torch.int32).abs().max()) <= 127  # symmetric: -128 is never used
    moved = (dequantise(stored, torch.float32)["w"] - weight.float()).abs()
    assert bool((moved <= scale[:, None] / 2 * (1 + 1e-4)).all())


@settings(max_examples=100, deadline=None)
@given(weight=matrices())
def test_the_largest_of_a_row_uses_the_whole_range_and_zeros_stay(weight: Tensor) -> None:
    stored, largest = quantise({"w": weight}), weight.float().abs().amax(1)
    filled = largest > 1e-9  # below it a row is as good as zero
    assert bool((stored["w"].to(torch.int32).abs().amax(1)[filled] == 127).all())
    assert bool((dequantise(stored, torch.float32)["w"][weight == 0] == 0).all())


def test_what_is_stored_again_is_the_same() -> None:
    """Whoever quantises a dequantised draft loses nothing more."""
    first = quantise({"w": torch.randn(8, 16, generator=torch.Generator().manual_seed(0))})
    again = quantise(dequantise(first, torch.float32))
    assert torch.equal(first["w"], again["w"])
    torch.testing.assert_close(first["w.scale"], again["w.scale"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_are_kept_and_all_comes_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    norm = torch.tensor([0.1, 1.0, 1234.5])
    stored = quantise({"norm": norm, "w": torch.eye(3)})
    assert stored.keys() == {"norm", "w", "w.scale"} and stored["norm"] is norm
    weights = dequantise(stored, dtype)
    assert weights.keys() == {"norm", "w"} and {weight.dtype for weight in weights.values()} == {dtype}
    assert torch.equal(weights["norm"], norm.to(dtype)) and torch.equal(weights["w"], torch.eye(3).to(dtype))
    plain = {"norm": norm, "w": torch.randn(3, 3)}
    assert all(torch.equal(found, plain[name]) for name, found in dequantise(plain, torch.float32).items())


@pytest.mark.parametrize("scale", [None, torch.ones(1), torch.ones(3), torch.ones(2, 1)])
def test_int8_without_a_scale_for_each_row_is_refused(scale: Tensor | None) -> None:
    stored = {"w": torch.ones(2, 3, dtype=torch.int8)} | ({} if scale is None else {"w.scale": scale})
    with refused(ValueError, "w is int8", "w.scale", "each row"):
        dequantise(stored, torch.float32)


def test_the_command_writes_what_can_be_read_back_and_refuses_half_a_file(tmp_path: Path) -> None:
    weights = {"w": torch.randn(4, 6, dtype=torch.bfloat16), "norm": torch.ones(6, dtype=torch.bfloat16)}
    whole, half, out = tmp_path / "whole", tmp_path / "half", tmp_path / "out"
    save_file(weights, whole)
    half.write_bytes(whole.read_bytes()[:-10])
    command = [sys.executable, "-m", "tandem.models.quantise"]
    subprocess.run([*command, str(whole), str(out)], check=True, timeout=120)
    expected = quantise(weights)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(out).items())
    out.unlink()
    with pytest.raises(SafetensorError):
        load_file(half)
    failed = subprocess.run([*command, str(half), str(out)], capture_output=True, timeout=120, check=False)
    assert failed.returncode and not out.exists()
