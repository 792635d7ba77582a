"""A folder of weights loads as in transformers, or is refused in one line that names the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM, T5Config, T5ForConditionalGeneration

from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model
from tandem.models import ModelCorruptError, ModelError, ModelNotFoundError, UnsupportedModelError, resolve
from tests.models.checks import refused
from tests.models.folders import change_config, save_llama

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_llama(folder, eos_token_id=[2, 7])
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(resolve(str(folder)), dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_gives_the_logits_that_transformers_gives(dtype: str, tied: bool, tmp_path: Path) -> None:
    save_llama(tmp_path / "tiny", tie_word_embeddings=tied)
    loaded = load(tmp_path / "tiny", dtype)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny", dtype=getattr(torch, dtype))
    with torch.inference_mode():
        assert torch.equal(loaded.model(input_ids=TOKENS).logits, plain(input_ids=TOKENS).logits)
    assert not loaded.model.training and not any(weight.requires_grad for weight in loaded.model.parameters())


def test_what_is_known_of_a_model(saved: Path) -> None:
    loaded = load(saved)
    assert (loaded.vocabulary_size, loaded.context_length, loaded.dtype) == (64, 128, "float32")
    assert loaded.end_token_ids == (2, 7) and loaded.device == torch.device("cpu")
    assert loaded.parameter_count == sum(weight.numel() for weight in load_file(saved / "model.safetensors").values())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_auto_is_the_dtype_that_the_model_was_saved_in(stored: torch.dtype, tmp_path: Path) -> None:
    save_llama(tmp_path / "tiny", dtype=stored)
    assert load(tmp_path / "tiny", "auto").dtype == str(stored).removeprefix("torch.")
    assert {weight.dtype for weight in load(tmp_path / "tiny", "auto").model.parameters()} == {stored}


@pytest.mark.parametrize("size", [0, 4, 100, -4, -20_000])
def test_weights_that_are_cut_off_are_refused(size: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with refused(ModelCorruptError, "tiny: its weights cannot be read: ", "get them again"):
        load(folder)


def test_weights_that_are_not_there_are_refused_and_never_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: weight for key, weight in weights.items() if key != name}, folder / "model.safetensors")
    with refused(ModelCorruptError, "tiny: its weights do not fit config.json: ", name):
        load(folder)
    save_file(weights | {name: torch.zeros(3, 3)}, folder / "model.safetensors")
    with refused(ModelCorruptError, "tiny: its weights do not fit config.json: ", name):
        load(folder)


def test_a_folder_without_safetensors_is_refused_even_with_a_pickle(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (folder / "model.safetensors").unlink()
    with refused(ModelNotFoundError, "tiny has no weights as safetensors", str(folder)):
        load(folder)
    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with refused(ModelNotFoundError, "tiny has no weights as safetensors", "pytorch_model.bin", "pickle", "not read"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_config_that_is_none_is_refused(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with refused(ModelCorruptError, "tiny: its config.json cannot be used: "):
        load(folder)


@pytest.mark.parametrize("facts", [{"hidden_size": "abc"}, {"num_attention_heads": 0}, {"hidden_size": 33}])
def test_a_config_that_makes_no_sense_is_refused(facts: dict[str, object], folder: Path) -> None:
    change_config(folder, **facts)
    with refused(ModelCorruptError, "tiny"):
        load(folder)


def test_an_architecture_that_transformers_does_not_have_is_named(folder: Path) -> None:
    change_config(folder, model_type="nonesuch")
    with refused(UnsupportedModelError, "tiny cannot be loaded: transformers", "'nonesuch'", "newer"):
        load(folder)


@pytest.mark.parametrize("kind", ["llama", "nonesuch"])
def test_code_that_comes_with_a_model_is_never_run(kind: str, folder: Path, tmp_path: Path) -> None:
    (folder / "custom.py").write_text(
        f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"class Config(LlamaConfig): model_type = {kind!r}\n"
        "class Model(LlamaForCausalLM): config_class = Config\n"
    )
    change_config(
        folder,
        model_type=kind,
        auto_map={"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"},
    )
    if kind == "llama":  # transformers' own code for it
        assert type(load(folder).model).__module__.startswith("transformers.")
    else:
        with refused(UnsupportedModelError, "tiny cannot be loaded", "'nonesuch'", "code", "never run"):
            load(folder)
    assert not (tmp_path / "ran").exists()


def test_models_that_cannot_be_served_are_refused_with_the_error_for_it(tmp_path: Path) -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4))
    bloom.save_pretrained(tmp_path / "bloom")
    with refused(UnsupportedModelError, "bloom cannot be served", "max_position_embeddings"):
        load(tmp_path / "bloom")
    config = T5Config(vocab_size=96, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with refused(UnsupportedModelError, "t5 cannot be loaded", "T5Config"):
        load(tmp_path / "t5")


def test_a_device_that_is_not_there_is_named(saved: Path) -> None:
    with refused(ModelError, "cuda:99", "--device cpu"):
        load_model(resolve(str(saved)), device="cuda:99")
