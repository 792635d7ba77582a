"""The folder that is written is the draft that was trained, wherever it is loaded."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tandem.distil import export
from tandem.distil.base import Base, find_base
from tandem.distil.export import write_draft
from tandem.distil.files import to_toml
from tandem.distil.paths import relative_paths, whole_paths
from tandem.distil.preparing import prepare
from tandem.distil.recipe import Recipe, RecipeError
from tandem.distil.student import Student, StudentError, make_student, shape_of
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model
from tandem.models import ModelError, ModelFolder, ModelNotFoundError, UnsupportedModelError, resolve
from tests.distil.answers import VOCABULARY, llama, random_model
from tests.inference.architectures import CONFIGS
from tests.models.checks import refused

CAN = torch.tensor([0, 2, 3, 7, 11, 40, 63])
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
EVERYWHERE = torch.arange(8)


def save(target: PreTrainedModel, path: Path) -> Base:
    target.save_pretrained(path)
    return find_base(str(path), None)


def changed(target: PreTrainedModel, layers: int, token_ids: torch.Tensor) -> tuple[Student, Any]:
    """A draft that has learnt something."""
    shape = shape_of(target, layers)
    student = make_student(target, shape, token_ids)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in student.own().values():
            weight += torch.randn(weight.shape, generator=random) * 0.05
    return student, shape.config


def load(folder: Path, **facts: str) -> LoadedModel:
    return load_model(resolve(str(folder)), **{"dtype": "float32", "device": "cpu", **facts})


def logits_of(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(input_ids=TOKENS, use_cache=False).logits[0]


def exported(
    tmp_path: Path, target: PreTrainedModel, token_ids: torch.Tensor | None, weights: str = "bfloat16"
) -> tuple[Path, Student]:
    base, folder = save(target, tmp_path / "target"), tmp_path / "draft"
    ids = torch.arange(target.config.vocab_size) if token_ids is None else token_ids
    student, config = changed(target, 2, ids)
    write_draft(folder, config, student.own(), base, token_ids, weights)
    return folder, student


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_loaded_says_what_was_trained(name: str, tmp_path: Path) -> None:
    target = random_model(copy.deepcopy(CONFIGS[name]))
    folder, student = exported(tmp_path, target, CAN)
    found = logits_of(load(folder))
    with torch.no_grad():
        for weight in student.own().values():
            weight.copy_(weight.to(torch.bfloat16))
        expected = student(TOKENS, EVERYWHERE)
    torch.testing.assert_close(found[:, CAN], expected, atol=1e-4, rtol=1e-4)
    others = [token for token in range(target.config.vocab_size) if token not in CAN]
    assert found.shape == (8, target.config.vocab_size) and bool((found[:, others] == -torch.inf).all())


def test_in_int8_each_weight_is_within_half_a_step_of_what_was_trained(tmp_path: Path) -> None:
    folder, student = exported(tmp_path, llama(), CAN, "int8")
    own = student.own()
    loaded = dict(load(folder).model.named_parameters())
    for name, weight in own.items():
        step = weight.abs().amax(-1, keepdim=True) / 127 if weight.dim() == 2 else torch.zeros(1)
        assert bool(((loaded[name] - weight).abs() <= step * 0.501).all()), name
    facts = json.loads((folder / "tandem.json").read_text())
    assert facts == {
        "base": str(tmp_path / "target"), "weights": "layers.int8.safetensors", "quantisation": "int8-per-row",
        "cpu_weights": "int8", "vocabulary": "vocabulary.safetensors",
    }  # fmt: skip
    assert (folder / "layers.int8.safetensors").stat().st_size < 1.4 * sum(weight.numel() for weight in own.values())


@pytest.mark.parametrize("tied", [True, False])
def test_a_draft_that_can_say_everything_has_no_list_of_tokens(tied: bool, tmp_path: Path) -> None:
    folder, student = exported(tmp_path, llama(tie_word_embeddings=tied), None)
    assert not (folder / "vocabulary.safetensors").exists()
    assert "vocabulary" not in json.loads((folder / "tandem.json").read_text())
    found = logits_of(load(folder))
    with torch.no_grad():
        torch.testing.assert_close(found, student(TOKENS, EVERYWHERE), atol=0.1, rtol=0.02)


def test_a_draft_written_over_another_leaves_nothing_of_it(tmp_path: Path) -> None:
    folder, student = exported(tmp_path, llama(), CAN, "int8")
    base, config = find_base(str(tmp_path / "target"), None), shape_of(llama(), 2).config
    write_draft(folder, config, student.own(), base, None, "bfloat16")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "generation_config.json", "layers.safetensors", "tandem.json",
    ]  # fmt: skip
    load(folder)


def test_nothing_in_it_says_where_the_target_lay(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "target")
    config = shape_of(load_model(base.folder, dtype="float32", device="cpu").model, 2).config
    student, _ = changed(llama(), 2, CAN)
    write_draft(tmp_path / "draft", config, student.own(), Base("organisation/target", None, base.folder), CAN, "int8")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in (tmp_path / "draft").iterdir())


def test_until_all_is_written_the_folder_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, student = exported(tmp_path, llama(), CAN)
    base, config = find_base(str(tmp_path / "target"), None), shape_of(llama(), 2).config
    written: list[Path] = []
    whole = export.write_whole

    def cut_off(path: Path, content: str | bytes) -> None:
        with pytest.raises(ModelNotFoundError):
            resolve(str(folder))
        written.append(path)
        whole(path, content)

    monkeypatch.setattr(export, "write_whole", cut_off)
    write_draft(folder, config, student.own(), base, CAN, "int8")
    assert [path.name for path in written][-1] == "config.json" and len(written) == 5
    load(folder)


def test_its_end_tokens_are_its_target_s(tmp_path: Path) -> None:
    target = llama(eos_token_id=3)
    target.generation_config.eos_token_id = [3, 9]
    folder, _ = exported(tmp_path, target, CAN)
    assert load(folder).end_token_ids == (3, 9)


def test_a_target_from_the_hub_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = llama()
    target.save_pretrained(tmp_path / "snapshot")
    asked = []

    def fetched(name: str, revision: str | None = None, **facts: Any) -> ModelFolder:
        asked.append((name, revision))
        if name.startswith("/"):
            return resolve(name)
        return ModelFolder(tmp_path / "snapshot", name, "abc123")

    monkeypatch.setattr("tandem.distil.base.resolve", fetched)
    monkeypatch.setattr("tandem.inference.grafts.resolve", fetched)
    base = find_base("organisation/model", None)
    student, config = changed(target, 2, CAN)
    write_draft(tmp_path / "draft", config, student.own(), base, CAN, "int8")
    facts = json.loads((tmp_path / "draft/tandem.json").read_text())
    assert (facts["base"], facts["revision"]) == ("organisation/model", "abc123")
    load(tmp_path / "draft")
    assert asked == [("organisation/model", None), ("organisation/model", "abc123")]


def test_a_folder_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama().save_pretrained(tmp_path / "target")
    monkeypatch.chdir(tmp_path)
    assert find_base("target", None).name == str(tmp_path / "target")


def recipe_for(base: Base, **student: Any) -> Recipe:
    return Recipe.model_validate({"target": base.name, "student": {"layers": 2, **student}})


def test_what_cannot_be_made_is_known_before_any_weight_is_loaded(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "target")
    found = prepare(recipe_for(base), base)
    student = make_student(llama(), found.shape, torch.arange(VOCABULARY))
    assert found.parameters == sum(weight.numel() for weight in student.own().values())
    (tmp_path / "target/model.safetensors").write_bytes(b"none")
    assert prepare(recipe_for(base), base).vocabulary_size == VOCABULARY
    with refused(StudentError, "student.layers is 9"):
        prepare(recipe_for(base, layers=9), base)


def test_a_draft_is_no_target(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, llama(), CAN)
    draft = find_base(str(folder), None)
    with refused(UnsupportedModelError, str(folder), "is a draft itself"):
        prepare(recipe_for(draft), draft)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_draft_can_begin_as_another_of_its_shape(weights: str, tmp_path: Path) -> None:
    folder, student = exported(tmp_path, llama(), CAN, weights)
    base = find_base(str(tmp_path / "target"), None)
    start = prepare(recipe_for(base, start_from=str(folder)), base).start
    assert start is not None
    for name, weight in student.own().items():
        assert start[name].dtype == torch.float32
        torch.testing.assert_close(start[name], weight, atol=0.02, rtol=0.01)
    with refused(StudentError, "student.start_from", "model.layers.2.", "missing"):
        prepare(recipe_for(base, start_from=str(folder), layers=3), base)
    with refused(ModelError, "student.start_from", "no draft that shares its target's embedding"):
        prepare(recipe_for(base, start_from=base.name), base)


def test_a_recipe_as_it_is_written_is_the_recipe(tmp_path: Path) -> None:
    recipes = [
        Recipe(target="embedded:smollm2"),
        Recipe.model_validate({
            "target": 'a "b" \\ é\x7f', "revision": "main", "prompts": {"files": ["x.txt"], "self_written": 0},
            "data": {"temperatures": [0, 0.3]}, "student": {"initial": [0, 2, 3], "start_from": "d"},
            "training": {"learning_rate": 1e-5},
        }),
    ]  # fmt: skip
    for recipe in recipes:
        (tmp_path / "recipe.toml").write_text(to_toml(recipe))
        found = Recipe.read(tmp_path / "recipe.toml")
        assert found == recipe
        assert ("self_written" in found.prompts.model_fields_set) == ("self_written" in recipe.prompts.model_fields_set)
    assert len(tomllib.loads(to_toml(recipes[0]))["training"]) >= 9  # defaults, too
    (tmp_path / "recipe.toml").write_text('target = "x"\n[student]\nlayers = 0\n')
    with refused(RecipeError, "recipe.toml", "student.layers"):
        Recipe.read(tmp_path / "recipe.toml")


def test_paths_of_a_recipe_are_relative_to_its_file(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({
        "target": "embedded:smollm2", "prompts": {"files": ["a.txt", "/b.txt"], "exclude": ["../c.jsonl"]},
        "student": {"start_from": "draft"},
    })  # fmt: skip
    (tmp_path / "recipes/draft").mkdir(parents=True)
    whole = whole_paths(recipe, tmp_path / "recipes")
    assert whole.prompts.files == (str(tmp_path / "recipes/a.txt"), "/b.txt")
    assert whole.prompts.exclude == (str(tmp_path / "c.jsonl"),)
    assert whole.student.start_from == str(tmp_path / "recipes/draft")
    assert whole_paths(relative_paths(whole, tmp_path / "out"), tmp_path / "out") == whole
    assert "self_written" not in whole.prompts.model_fields_set
    for name in ("embedded:smollm2-draft", "organisation/model"):
        other = Recipe.model_validate({"target": "x", "student": {"start_from": name}})
        assert whole_paths(other, tmp_path).student.start_from == name
        assert relative_paths(other, tmp_path).student.start_from == name
