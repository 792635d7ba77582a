"""A draft begins as what its target's layers make it, whatever the architecture, and only its own layers learn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, MambaConfig, Qwen3MoeConfig, T5Config

from tandem.distil.student import Student, StudentError, make_student, shape_of
from tandem.models import UnsupportedModelError
from tests.distil.answers import VOCABULARY, llama, random_model, student_of
from tests.inference.architectures import CONFIGS
from tests.models.checks import refused

CAN = torch.tensor([0, 2, 3, 7, 11, 40, 63])
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]])
PLACES = torch.tensor([0, 4, 9, 10, 17])


def logits_of(student: Student, tokens: Tensor = TOKENS, places: Tensor = PLACES) -> Tensor:
    with torch.no_grad():
        return student(tokens, places)


@pytest.mark.parametrize("name", CONFIGS)
def test_with_all_layers_it_is_its_target_over_what_it_can_say(name: str) -> None:
    target = random_model(copy.deepcopy(CONFIGS[name]))
    student = make_student(target, shape_of(target, 2), CAN)
    whole = target(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)
    torch.testing.assert_close(logits_of(student), whole[PLACES][:, CAN], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_of_one_layer_it_is_the_target_that_has_only_this_one(name: str) -> None:
    target = random_model(copy.deepcopy(CONFIGS[name]))
    shape = shape_of(target, 1, [1])
    config = copy.deepcopy(shape.config)
    config._attn_implementation = "eager"
    small = AutoModelForCausalLM.from_config(config).eval()
    theirs = target.state_dict()
    small.load_state_dict({
        own: theirs[own.replace("layers.0.", "layers.1.")] for own in small.state_dict()
    })  # fmt: skip
    with torch.no_grad():
        whole = small(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)
    torch.testing.assert_close(logits_of(make_student(target, shape, CAN)), whole[PLACES][:, CAN], atol=1e-4, rtol=1e-4)


def test_lists_with_an_entry_for_each_layer_are_cut_alike() -> None:
    target = random_model(copy.deepcopy(CONFIGS["gemma3"]))
    assert target.config.layer_types == ["sliding_attention", "full_attention"]
    assert shape_of(target, 1, [1]).config.layer_types == ["full_attention"]
    assert shape_of(target, 2, [1, 0]).config.layer_types == ["full_attention", "sliding_attention"]
    assert len(target.config.layer_types) == target.config.num_hidden_layers == 2


@pytest.mark.parametrize(("layers", "origins"), [(1, (3,)), (2, (0, 3)), (3, (0, 1, 3)), (4, (0, 1, 2, 3))])
def test_it_begins_as_the_first_layers_and_the_last(layers: int, origins: tuple[int, ...]) -> None:
    assert shape_of(llama(), layers).origins == origins


def test_layers_that_there_are_not_are_refused() -> None:
    with refused(StudentError, "student.layers is 5, but the target has 4"):
        shape_of(llama(), 5)
    for origin in (-1, 4):
        with refused(StudentError, f"student.initial names layer {origin}, but the target has 0 to 3"):
            shape_of(llama(), 2, [0, origin])
    with refused(StudentError, "student.initial names 3 layers, but student.layers is 2"):
        shape_of(llama(), 2, [0, 1, 2])


def test_padding_and_neighbours_change_nothing() -> None:
    student = student_of(llama())
    whole = logits_of(student, TOKENS, torch.arange(20))
    padded = torch.cat([TOKENS[:, :6], torch.tensor([[0, 0, 0], [5, 6, 7]])], 1)
    ours = logits_of(student, padded, torch.tensor([0, 1, 2, 3, 4, 5]))
    torch.testing.assert_close(ours, whole[:6], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_its_own_layers_and_last_norm_learn_and_nothing_else(tied: bool) -> None:
    target = llama(tie_word_embeddings=tied)
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    student = student_of(target)
    own = student.own()
    assert {name.partition(".layers.")[0] for name in own} == {"model", "model.norm.weight"}
    optimiser = torch.optim.SGD(own.values(), lr=0.5)
    start = {name: weight.detach().clone() for name, weight in own.items()}
    student(TOKENS, PLACES).square().mean().backward()
    others = [weight for name, weight in student.named_parameters() if not weight.requires_grad]
    assert others and all(weight.grad is None for weight in others)
    optimiser.step()
    assert all(not torch.equal(start[name], weight) for name, weight in own.items())
    for name, weight in target.state_dict().items():
        assert torch.equal(weight, before[name]), name  # the draft has copies


def test_a_target_in_bfloat16_is_learnt_from_in_float32() -> None:
    target = llama().to(torch.bfloat16)
    student = student_of(target)
    assert {weight.dtype for weight in student.own().values()} == {torch.float32}
    assert logits_of(student).dtype == torch.float32
    close = torch.nn.functional.cosine_similarity(
        logits_of(student_of(target, 4)), target(input_ids=TOKENS).logits.flatten(0, 1)[PLACES].float()
    )
    assert float(close.min()) > 0.99


def test_weights_of_another_draft_are_refused_by_name() -> None:
    student = student_of(llama())
    good = {name: weight.detach().clone() for name, weight in student.own().items()}
    student.load({name: weight + 1 for name, weight in good.items()})
    assert all(torch.equal(weight, good[name] + 1) for name, weight in student.own().items())
    name = "model.layers.1.mlp.up_proj.weight"
    with refused(StudentError, name, "[3, 3]", "[48, 32]"):
        student.load({**good, name: torch.zeros(3, 3)})
    with refused(StudentError, name, "missing"):
        student.load({key: weight for key, weight in good.items() if key != name})
    with refused(StudentError, "x.weight", "none"):
        student.load({**good, "x.weight": torch.zeros(1)})


def test_what_is_no_stack_of_alike_layers_is_refused_by_name() -> None:
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2))
    with refused(UnsupportedModelError, "MambaForCausalLM"):
        shape_of(mamba, 1)
    small = T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4)
    t5 = AutoModelForSeq2SeqLM.from_config(small)
    with refused(UnsupportedModelError, "T5ForConditionalGeneration", "encoder-decoder"):
        shape_of(t5, 1)
    mixed = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0],
    )  # fmt: skip
    target = random_model(mixed)
    with refused(UnsupportedModelError, "Qwen3MoeForCausalLM cannot be distilled", "model.layers.1", "does not fit"):
        make_student(target, shape_of(target, 1, [1]), CAN)
