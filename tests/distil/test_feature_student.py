"""A draft that reads its target's features is trained on what the services give it, and is of use for it."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from draft_service.drafters.features import FeaturesDrafter
from orchestrator.target_laws import TargetLaws
from tandem.distil.base import find_base
from tandem.distil.batches import collate
from tandem.distil.export import write_draft
from tandem.distil.feature_student import FeatureStudent, first_tokens
from tandem.distil.preparing import prepare
from tandem.distil.recipe import Recipe
from tandem.distil.student import Student, make_student, shape_of
from tandem.distil.training import Interrupted, train
from tandem.inference.feeding import FedRunner
from tandem.inference.grafts import FEATURES
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model
from tandem.inference.serving import load_engine
from tandem.models import ModelCorruptError, UnsupportedModelError, resolve
from tandem.wire import model_info
from tests.distil.answers import CPU, VOCABULARY, lessons, llama, random_model, settings, write
from tests.inference.architectures import CONFIGS
from tests.models.checks import refused
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, serve_model, trio

TARGET = llama()
IDS = torch.arange(VOCABULARY)


def teacher() -> Any:
    """A target that can be learnt from in seconds: its layers change less of what the embedding says."""
    target = llama(num_hidden_layers=2)
    with torch.no_grad():
        for name, weight in target.named_parameters():
            if weight.dim() > 1 and "layers" in name:
                weight *= 0.6
    return target


def head_of(target: Any = TARGET, token_ids: torch.Tensor = IDS) -> FeatureStudent:
    student = make_student(target, shape_of(target, 1), token_ids, FEATURES)
    assert isinstance(student, FeatureStudent)
    return student


def changed(student: Student) -> Student:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in student.own().values():
            weight += torch.randn(weight.shape, generator=random) * 0.1
    return student


def test_the_first_token_is_the_one_from_which_on_the_services_give_features() -> None:
    """Of prompts of 1, 2, 31, 32, 33 and 50 tokens: 32 features are before tokens 19 to 50 of the longest."""
    prompts = [1, 2, 31, 32, 33, 50]
    places = torch.cat([torch.arange(prompt - 1, prompt + 2) + row * 60 for row, prompt in enumerate(prompts)])
    assert first_tokens(places, torch.Size([6, 60])).tolist() == [0, 1, 1, 1, 2, 19]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_token_is_read_with_the_target_s_state_before_it(name: str) -> None:
    """What it says at each place is what the served head says there, fed one token after the other."""
    target = random_model(copy.deepcopy(CONFIGS[name]))
    student = head_of(target, torch.tensor([0, 2, 3, 7, 11, 40, 63]))
    samples = write(target, 12)
    batch = collate(samples)
    with torch.no_grad():
        logits = changed(student)(batch.tokens, batch.places)
        model = student._model
        at = 0
        for sample in samples:
            tokens, prompt = sample.tokens.long(), sample.prompt_length
            states = target.get_decoder()(input_ids=tokens[None], use_cache=False).last_hidden_state[0].float()
            embedded = model.get_input_embeddings()(tokens[1:])
            inputs = model.get_submodule("feed")(torch.cat([embedded, states[:-1]], -1))
            student._head.places = torch.arange(prompt - 2, len(tokens) - 2)
            expected = model(inputs_embeds=inputs[None], use_cache=False).logits
            count = len(sample.answer)
            torch.testing.assert_close(logits[at : at + count], expected, rtol=1e-4, atol=1e-4)
            at += count


def test_the_distance_of_states_is_smooth_l1() -> None:
    """By hand: differences .5 and 3 cost .125 and 2.5; the mean over all numbers."""
    student = head_of()
    batch = collate(write(TARGET, 1))
    made = torch.zeros(len(batch.places), 32)
    real = student._model.forward

    def forward(**inputs: Any) -> Any:
        found = real(**inputs)
        truth = TARGET.get_decoder()(input_ids=batch.tokens, use_cache=False).last_hidden_state[0]
        made[:] = truth[batch.places]
        made[0, 0] += 0.5
        made[0, 1] -= 3
        student._head.read = made
        return found

    student._model.forward = forward  # type: ignore[method-assign]
    with torch.no_grad():
        student(batch.tokens, batch.places)
    distance = student.state_distance
    assert distance is not None
    torch.testing.assert_close(distance, torch.tensor([2.625 / 32] + [0.0] * (len(made) - 1)))


def test_how_far_states_are_counts_by_its_weight(tmp_path: Path) -> None:
    found, target = [], teacher()
    samples = write(target, 120)
    for weight in (0.0, 10.0):
        student = head_of(target)
        data = lessons(samples, tmp_path / str(weight))
        train(student, data, settings(feature_distance=weight, learning_rate=1e-2), seed=7, processes=CPU)
        batch = collate(data.held_out)
        with torch.no_grad():
            student(batch.tokens, batch.places)
        assert student.state_distance is not None
        found.append(float(student.state_distance.mean()))
    assert found[1] < 0.8 * found[0]


def test_ended_and_begun_again_it_is_the_same(tmp_path: Path) -> None:
    samples = write(TARGET, 60)

    def taught(folder: Path, end: int = 0) -> FeatureStudent:
        student, asked = head_of(), list[None]()

        def stops() -> bool:
            asked.append(None)
            return len(asked) == end

        train(student, lessons(samples, folder), settings(), seed=7, processes=CPU, stops=stops)
        return student

    whole = taught(tmp_path / "whole")
    with pytest.raises(Interrupted):
        taught(tmp_path / "cut", end=3)
    again = taught(tmp_path / "cut").own()
    assert all(torch.equal(weight, again[name]) for name, weight in whole.own().items())
    assert not any("embed" in name or "lm_head" in name or name.endswith("model.norm.weight") for name in again)


def test_a_recipe_of_this_kind_has_one_layer_unless_it_says_more(tmp_path: Path) -> None:
    facts = {"target": "x", "student": {"kind": "features"}}
    assert Recipe.model_validate(facts).student.layers == 1
    assert Recipe.model_validate({"target": "x", "student": {"kind": "features", "layers": 2}}).student.layers == 2
    assert Recipe.model_validate({"target": "x"}).student.layers == 3
    TARGET.save_pretrained(tmp_path)
    base = find_base(str(tmp_path), None)
    prepared = prepare(Recipe.model_validate({**facts, "target": str(tmp_path)}), base)
    assert prepared.shape.origins == (3,)
    assert prepared.parameters == sum(weight.numel() for weight in head_of().own().values())


def load(folder: Path) -> LoadedModel:
    return load_model(resolve(str(folder)), dtype="float32", device="cpu")


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_what_is_loaded_says_what_was_trained(weights: str, tmp_path: Path) -> None:
    student = changed(head_of())
    TARGET.save_pretrained(tmp_path / "target")
    config, base = shape_of(TARGET, 1).config, find_base(str(tmp_path / "target"), None)
    write_draft(tmp_path / "draft", config, student.own(), base, None, weights, FEATURES)
    assert json.loads((tmp_path / "draft/tandem.json").read_text())["kind"] == "features"
    loaded = load(tmp_path / "draft")
    assert loaded.is_fed and not load(tmp_path / "target").is_fed
    theirs = student.own()
    found = {name: weight for name, weight in loaded.model.named_parameters() if name in theirs}
    assert found.keys() == theirs.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0.01, atol=0.01)
    write_draft(tmp_path / "draft", config, student.own(), base, None, weights, "nonsense")
    with refused(ModelCorruptError, "tandem.json: kind must be one of layers, features"):
        load(tmp_path / "draft")


def test_only_a_draft_service_runs_it(tmp_path: Path) -> None:
    TARGET.save_pretrained(tmp_path / "target")
    byte_tokenizer(VOCABULARY)._tokenizer.save(str(tmp_path / "target/tokenizer.json"))
    config, base = shape_of(TARGET, 1).config, find_base(str(tmp_path / "target"), None)
    write_draft(tmp_path / "draft", config, head_of().own(), base, None, "bfloat16", FEATURES)
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", "threads": None}
    with refused(UnsupportedModelError, "draft reads its target's features", "only a draft service"):
        load_engine(str(tmp_path / "draft"), None, **options)
    assert load_engine(str(tmp_path / "draft"), None, may_be_fed=True, **options).loaded.is_fed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path]:
    """A target, and the folder of a head that has learnt from it."""
    folder = tmp_path_factory.mktemp("trained")
    target = teacher()
    target.save_pretrained(folder / "target")
    student = head_of(target)
    data = lessons(write(target, 600, temperatures=(0.0, 1.0)), folder / "work")
    facts = settings(epochs=6, learning_rate=1e-2, batch_tokens=512, report_steps=1000)
    course = train(student, data, facts, seed=7, processes=CPU)
    assert course.reports[-1]["held_out"]["greedy_agreement"] > 0.6
    base = find_base(str(folder / "target"), None)
    write_draft(folder / "draft", shape_of(target, 1).config, student.own(), base, None, "bfloat16", FEATURES)
    return load(folder / "target"), folder / "draft"


async def accepted(target: LoadedModel, folder: Path) -> tuple[list[list[int]], int]:
    """Of short completions at temperature 0, before they repeat themselves: their texts, and the candidates that were
    accepted."""
    served = serve_model(load(folder), byte_tokenizer(VOCABULARY), "head", runner=FedRunner)
    drafter = FeaturesDrafter(served.engine, model_info(served))
    random = torch.Generator().manual_seed(3)
    prompts = torch.randint(0, VOCABULARY, (40, 6), generator=random).tolist()
    async with trio(target, drafter, byte_tokenizer(VOCABULARY)) as services:
        found = await asyncio.gather(
            *(services.complete(prompt, policy=policy("fixed", max_tokens=2), max_tokens=9) for prompt in prompts)
        )
    assert all(each.finish.speculation.draft_failures == 0 for each in found)
    texts = [list(each.token_ids) for each in found]
    return texts, sum(each.finish.speculation.accepted_tokens for each in found)


async def test_with_features_more_is_accepted_than_with_zeros_in_their_place(
    trained: tuple[LoadedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is the same."""
    texts, count = await accepted(*trained)
    take = TargetLaws.take

    def zeros(self: TargetLaws[Any]) -> list[Any]:
        return [bytes(len(each)) if isinstance(each, bytes) else each for each in take(self)]

    monkeypatch.setattr(TargetLaws, "take", zeros)
    blind, fewer = await accepted(*trained)
    assert texts == blind and count > 1.1 * fewer
