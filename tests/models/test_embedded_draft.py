"""The embedded draft: four layers of its own on the target's embedding."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.models import ModelNotFoundError, embedded, resolve
from tandem.models.quantise import dequantise
from tandem.tokenization import Tokenizer
from tests.models.checks import refused

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module", params=DTYPES)
def draft(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(resolve("embedded:smollm2-draft"), dtype=request.param, device="cpu")


def test_its_embedding_and_its_output_layer_are_the_targets(draft: LoadedModel, embedded_folder: Path) -> None:
    """The output layer, of the tokens that it can say."""
    with safe_open(embedded_folder / "model.safetensors", framework="pt") as tensors:
        theirs = tensors.get_tensor(EMBEDDING).to(DTYPES[draft.dtype])
    assert torch.equal(draft.model.get_input_embeddings().weight, theirs)
    assert draft.sayable is not None and 4096 <= len(draft.sayable.token_ids) < 49_152
    assert torch.equal(draft.model.get_output_embeddings().weight, theirs[draft.sayable.token_ids])


def test_its_layers_are_those_of_the_package(draft: LoadedModel) -> None:
    held = dequantise(load_file(resolve("embedded:smollm2-draft").path / "layers.int8.safetensors"), torch.float32)
    ours = dict(draft.model.named_parameters())
    assert ours.keys() == held.keys() | {EMBEDDING, "lm_head.weight"}
    for name, weight in held.items():
        assert torch.equal(ours[name], weight.to(DTYPES[draft.dtype])), name


def test_it_is_ready_to_run(draft: LoadedModel) -> None:
    """Nothing is left on the meta device, and the rotary frequencies are those of a model made anew."""
    assert (draft.vocabulary_size, draft.context_length, draft.end_token_ids) == (49_152, 8192, (2,))
    values = [*draft.model.parameters(), *draft.model.buffers()]
    assert {value.device.type for value in values} == {"cpu"} and all(bool(v.isfinite().all()) for v in values)
    frequencies = 100_000.0 ** (-torch.arange(0, 64, 2) / 64)
    torch.testing.assert_close(draft.model.get_submodule("model.rotary_emb").inv_freq.float(), frequencies)


def test_it_predicts_plain_text_far_better_than_chance(draft: LoadedModel, embedded_tokenizer: Tokenizer) -> None:
    text = "The capital of France is Paris. The sun rises in the east and sets in the west. One, two, three, four."
    ids = torch.tensor([embedded_tokenizer.encode(text)])
    with torch.inference_mode():
        logits = draft.model(input_ids=ids).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    said = losses[losses.isfinite()]  # of the tokens that it can say
    assert len(said) > 0.8 * len(losses) and float(said.mean()) < 6.5  # a uniform guess over 49,152 tokens: 10.8


def test_it_needs_no_tokenizer_of_its_own(embedded_folder: Path) -> None:
    folder = resolve("embedded:smollm2-draft")
    assert folder.model_id == "embedded:smollm2-draft"
    assert tokenizer_folder(folder) == embedded_folder == tokenizer_folder(resolve("embedded:smollm2"))


def test_it_is_part_of_the_package_with_what_it_names() -> None:
    files = resources.files("tandem.models") / "embedded_draft"
    facts = json.loads((files / "tandem.json").read_text())
    assert facts["base"] == "embedded:smollm2"
    assert {"config.json", "tandem.json", facts["weights"]} <= {file.name for file in files.iterdir()}


def test_a_package_without_the_weights_takes_them_from_the_cache(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = resolve("embedded:smollm2-draft").path
    bare = tmp_path / "package"
    shutil.copytree(packaged, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    kept = embedded.keep_draft()
    assert kept.is_relative_to(home) and kept == embedded.keep_draft()
    monkeypatch.setattr(embedded, "_DRAFT", bare)
    assert resolve("embedded:smollm2-draft").path == kept
    for file in packaged.iterdir():
        assert (kept / file.name).read_bytes() == file.read_bytes()
    (kept / "layers.int8.safetensors").unlink()
    with refused(ModelNotFoundError, "the weights of embedded:smollm2-draft are neither in this package", str(home)):
        resolve("embedded:smollm2-draft")


def test_a_cache_of_another_release_is_not_taken_for_this_one() -> None:
    weights = resolve("embedded:smollm2-draft").path / "layers.int8.safetensors"
    assert embedded._DRAFT_FOLDER.endswith(hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
