"""GGUF files are converted once, to the weights that they hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tandem.inference.loading import load_model
from tandem.models import ModelCorruptError, ModelNotFoundError, resolve
from tandem.tokenization import Tokenizer
from tests.models.checks import left_in_cache, refused
from tests.models.folders import write_gguf


def bf16(weight: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(weight).to(torch.bfloat16)


def test_the_converted_weights_are_those_of_the_file(home: Path, tmp_path: Path) -> None:
    """Bit for bit as bf16; the rows of queries and keys in the order that transformers rotates them in."""
    held = write_gguf(tmp_path / "tiny.gguf")
    found = load_file(resolve(str(tmp_path / "tiny.gguf")).path / "model.safetensors")
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert torch.equal(found["model.embed_tokens.weight"], bf16(held["token_embd.weight"]))
    assert torch.equal(found["lm_head.weight"], bf16(held["output.weight"]))
    assert torch.equal(found["model.norm.weight"], bf16(held["output_norm.weight"]))
    names = {"mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm"}  # fmt: skip
    for layer in range(2):
        for ours, theirs in names.items():
            expected = bf16(held[f"blk.{layer}.{theirs}.weight"])
            assert torch.equal(found[f"model.layers.{layer}.{ours}.weight"], expected)
        for ours, theirs, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
            pairs = held[f"blk.{layer}.{theirs}.weight"].reshape(heads, 4, 2, 32).swapaxes(1, 2).reshape(-1, 32)
            assert torch.equal(found[f"model.layers.{layer}.self_attn.{ours}.weight"], bf16(pairs.copy()))


def test_a_file_and_a_folder_with_one_file_name_the_same_model(home: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "tiny.gguf"
    write_gguf(file)
    by_file, by_folder = resolve(str(file)), resolve(str(file.parent))
    assert by_file == by_folder and by_file.model_id == "tiny" and by_file.revision == ""
    loaded = load_model(by_file, dtype="float32", device="cpu")
    assert loaded.vocabulary_size == 64 and loaded.context_length == 128 and loaded.end_token_ids == (1,)
    with torch.inference_mode():
        assert bool(loaded.model(input_ids=torch.tensor([[3, 4]])).logits.isfinite().all())
    tokenizer = Tokenizer.from_folder(by_file.path)
    assert tokenizer.encode("ABC") == [63, 34] and tokenizer.decode([63, 34]) == "ABC"
    write_gguf(file.with_name("other.gguf"))
    with refused(ModelNotFoundError, str(file.parent), "more than one GGUF file; name one of them"):
        resolve(str(file.parent))


def test_it_is_converted_once_and_again_when_the_file_changes(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = resolve(str(file)).path
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve(str(file)).path == first and (first / "model.safetensors").stat().st_mtime_ns == made
    file.write_bytes(file.read_bytes() + b"\0" * 32)
    assert resolve(str(file)).path != first
    assert len(left_in_cache(home)) == 2


def test_no_bar_and_no_report_is_shown(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tqdm.auto import tqdm

    write_gguf(tmp_path / "tiny.gguf")
    capfd.readouterr()
    resolve(str(tmp_path / "tiny.gguf"))
    shown = capfd.readouterr()
    assert "%|" not in shown.err and "GGUF" not in shown.err and shown.out == ""
    list(tqdm([1, 2]))  # other bars are as before
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("size", [0, 3, 20, 200, 1000, 2000, -500, -1])
def test_a_file_that_is_cut_off_anywhere_is_refused_and_nothing_is_kept(
    size: int, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    file.write_bytes(file.read_bytes()[:size])
    with refused(ModelCorruptError, "tiny.gguf could not be read as GGUF: "):
        resolve(str(file))
    assert left_in_cache(home) == []


def test_what_is_no_gguf_or_of_no_known_architecture_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model " * 100)
    with refused(ModelCorruptError, "text.gguf could not be read as GGUF: "):
        resolve(str(tmp_path / "text.gguf"))
    write_gguf(tmp_path / "odd.gguf", architecture="nonesuch")
    with refused(ModelCorruptError, "odd.gguf could not be read as GGUF: ", "nonesuch"):
        resolve(str(tmp_path / "odd.gguf"))
    assert left_in_cache(home) == []


def test_without_the_libraries_that_convert_it_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "torch", None)
    with refused(ModelNotFoundError, "tiny.gguf", "pip install 'tandem-serving[models]'", "TANDEM_HOME"):
        resolve(str(tmp_path / "tiny.gguf"))
