"""A draft that shares its target's embedding: only with the target that it was made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.models import ModelCorruptError, ModelNotFoundError, resolve
from tandem.models.quantise import quantise
from tests.models.checks import refused
from tests.models.folders import change_config, save_llama

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def graft(tmp_path: Path, *, tied: bool = True, int8: bool = False, **base_facts: Any) -> Path:
    """A draft that is its base without the embedding, and a base that `base_facts` make another one."""
    whole, draft = tmp_path / "whole", tmp_path / "draft"
    save_llama(whole, tie_word_embeddings=tied)
    save_llama(tmp_path / "base", **{"tie_word_embeddings": tied, **base_facts})
    draft.mkdir()
    weights = load_file(whole / "model.safetensors")
    own = {name: weight for name, weight in weights.items() if "layers" in name or name == "model.norm.weight"}
    save_file(quantise(own) if int8 else own, draft / "own.safetensors")
    (draft / "config.json").write_bytes((whole / "config.json").read_bytes())
    (draft / "tandem.json").write_text(json.dumps({"base": str(tmp_path / "base"), "weights": "own.safetensors"}))
    return draft


def load(folder: Path) -> LoadedModel:
    return load_model(resolve(str(folder)), dtype="float32", device="cpu")


@pytest.mark.parametrize("tied", [True, False])
def test_a_graft_is_the_model_that_it_was_cut_from(tied: bool, tmp_path: Path) -> None:
    draft, whole = load(graft(tmp_path, tied=tied)), load(tmp_path / "whole")
    with torch.inference_mode():
        assert torch.equal(draft.model(input_ids=TOKENS).logits, whole.model(input_ids=TOKENS).logits)
    assert draft.parameter_count == whole.parameter_count
    assert not any(value.is_meta for value in [*draft.model.parameters(), *draft.model.buffers()])


def test_int8_layers_are_dequantised_when_they_are_loaded(tmp_path: Path) -> None:
    draft, whole = load(graft(tmp_path, int8=True)), load(tmp_path / "whole")
    theirs = dict(whole.model.named_parameters())
    for name, weight in draft.model.named_parameters():
        step = theirs[name].abs().amax(-1, keepdim=True) / 127 if weight.dim() == 2 else torch.zeros(1)
        assert weight.dtype == torch.float32
        assert bool(((weight - theirs[name]).abs() <= step * 0.501).all()), name


def test_its_tokenizer_is_that_of_its_base(tmp_path: Path) -> None:
    folder = resolve(str(graft(tmp_path)))
    assert tokenizer_folder(folder) == tmp_path / "base"
    assert tokenizer_folder(resolve(str(tmp_path / "base"))) == tmp_path / "base"


@pytest.mark.parametrize("facts", [{"hidden_size": 64}, {"vocab_size": 96}])
def test_a_base_of_another_shape_is_refused(facts: dict[str, int], tmp_path: Path) -> None:
    draft = graft(tmp_path, **facts)
    with refused(ModelCorruptError, "draft: model.embed_tokens.weight", "[64, 32]", "is it a draft for base?"):
        load(draft)


def test_a_base_without_the_output_layer_that_the_draft_needs_is_refused(tmp_path: Path) -> None:
    draft = graft(tmp_path, tied=False)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "base" / "model.safetensors")
    with refused(ModelCorruptError, "draft: its weights cannot be read", "lm_head.weight"):
        load(draft)


def test_layers_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    draft = graft(tmp_path)
    for layers, name in ((3, "model.layers.2."), (1, "model.layers.1.")):
        change_config(draft, num_hidden_layers=layers)
        with refused(ModelCorruptError, "draft: ", name):
            load(draft)


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    draft = graft(tmp_path)
    change_graft(draft, base="embedded:nonesuch")
    for ask in (load, lambda folder: tokenizer_folder(resolve(str(folder)))):
        with refused(ModelNotFoundError, "embedded:nonesuch", "embedded:smollm2"):
            ask(draft)
    change_graft(draft, base=str(tmp_path / "gone"))
    with refused(ModelNotFoundError, str(tmp_path / "gone"), "does not exist"):
        load(draft)


def test_own_weights_that_are_gone_cut_off_or_half_quantised_are_refused(tmp_path: Path) -> None:
    draft = graft(tmp_path, int8=True)
    file = draft / "own.safetensors"
    whole, weights = file.read_bytes(), load_file(file)
    for content in (None, b"", whole[:50], whole[:-50]):
        file.unlink() if content is None else file.write_bytes(content)
        with refused(ModelCorruptError, "draft: its weights cannot be read: "):
            load(draft)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({key: weight for key, weight in weights.items() if key != f"{name}.scale"}, file)
    with refused(ModelCorruptError, f"draft: its weights cannot be used: {name} is int8", "scale"):
        load(draft)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base": "x"}', "null"])
def test_a_graft_that_names_no_base_is_refused(content: str, tmp_path: Path) -> None:
    draft = graft(tmp_path)
    (draft / "tandem.json").write_text(content)
    for ask in (load, lambda folder: tokenizer_folder(resolve(str(folder)))):
        with refused(ModelCorruptError, "draft: tandem.json does not name a base and weights"):
            ask(draft)


def change_graft(draft: Path, **facts: str) -> None:
    file = draft / "tandem.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))
