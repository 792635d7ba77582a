"""A recorded pass gives what the modules give, to the last bit, or is not used."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tandem.inference.packing import PackedLinear
from tandem.inference.replay import _CHECKS, Replay, replay_steps
from tandem.inference.runner import Block, ModelRunner
from tests.inference.architectures import CONFIGS, VOCABULARY, load
from tests.inference.test_fusion import random_model


def runners(name: str) -> tuple[ModelRunner, ModelRunner]:
    """One model twice: by its modules, and by a recording of them."""
    plain = random_model(CONFIGS[name])
    recorded = copy.deepcopy(plain)
    replay_steps(recorded)
    return ModelRunner(load(plain)), ModelRunner(load(recorded))


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_those_of_the_modules(name: str) -> None:
    """Beyond a sliding window, over two sequences, with other blocks and truncations in between."""
    both = runners(name)
    sequences = [[runner.open() for _ in range(2)] for runner in both]

    def step(index: int, tokens: list[int], rows: int) -> None:
        plain, recorded = (
            runner.forward([Block(own[index], tokens, rows)])[0]
            for runner, own in zip(both, sequences, strict=True)
        )
        assert torch.equal(plain, recorded)

    for index, prompt in enumerate((text(5), text(11, seed=1))):
        step(index, prompt, 1)
    for number, token in enumerate(text(40, seed=2)):
        step(number % 2, [token], 1)
        if number % 7 == 3:
            step(number % 2, text(3, seed=number), 3)
            step(number % 2, [token], 0)
            for own in sequences:
                own[number % 2].truncate(own[number % 2].length - 3)
    replay = both[1].loaded.model.forward
    assert isinstance(replay, Replay) and replay._program is not None and replay._checks == 0


def test_once_checked_the_modules_of_a_step_do_not_run() -> None:
    _, runner = runners("llama")
    calls = []
    runner.loaded.model.model.layers[0].register_forward_pre_hook(lambda module, inputs: calls.append(1))
    sequence = runner.open()
    for _ in range(_CHECKS):
        runner.forward([Block(sequence, [1], 1)])
    assert len(calls) == _CHECKS
    runner.forward([Block(sequence, [1], 1)])
    assert len(calls) == _CHECKS
    runner.forward([Block(sequence, [1, 2], 1)])
    assert len(calls) == _CHECKS + 1


def test_a_recording_holds_tensors_of_the_model_only() -> None:
    _, runner = runners("gemma3")
    sequence, model = runner.open(), runner.loaded.model
    for _ in range(_CHECKS):
        runner.forward([Block(sequence, [1], 1)])
    packed = [module.packed for module in model.modules() if isinstance(module, PackedLinear)]
    held = {id(tensor) for tensor in (*model.parameters(), *model.buffers(), *packed)}
    constants = [value for value in model.forward._program.__globals__.values() if isinstance(value, Tensor)]
    assert constants and {id(tensor) for tensor in constants} <= held


class _Toy(nn.Module):
    """Stands for a model without attention: `body` makes logits of its layer, the hidden state and the position."""

    def __init__(self, body: Callable[[nn.Linear, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.layer, self.body = nn.Embedding(8, 4), nn.Linear(4, 4), body
        self.config = SimpleNamespace(_attn_implementation="none")

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, logits_to_keep: Tensor, use_cache: bool, tandem_step: Any
    ) -> SimpleNamespace:
        hidden = self.table(input_ids)
        return SimpleNamespace(logits=self.body(self.layer, hidden, position_ids)[:, logits_to_keep])


def steps(toy: _Toy, count: int) -> Replay:
    """Runs steps, each of which must give what the modules give."""
    replay = Replay(toy)  # type: ignore[arg-type]
    for number in range(count):
        given = {
            "input_ids": torch.tensor([[number % 8]]), "position_ids": torch.tensor([[3 + number]]),
            "logits_to_keep": torch.tensor([0]), "use_cache": False, "tandem_step": None,
        }  # fmt: skip
        with torch.inference_mode():
            assert torch.equal(replay(**given).logits, toy(**given).logits), number
        assert toy.config._attn_implementation == "none"
    return replay


def _in_place(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    hidden = hidden.clone()
    view = hidden[..., :2]
    hidden.mul_(position)
    hidden[..., 0] = 5.0
    hidden += view.sum()
    torch.add(hidden, 1.0, out=hidden)
    return layer(hidden)


def _several_results(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    greatest = layer(hidden).max(-1)
    first, *others = torch.split(layer(hidden) * greatest.values, [1, 2, 1], dim=-1)
    return torch.cat([*others, first, greatest.indices[..., None] * position[..., None]], -1)


def _made_anew(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    return layer(hidden) + torch.arange(4, dtype=torch.float32) * position + torch.tensor([1.0, 2.0, 3.0, 4.0])


def _nothing_wasted(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    torch.linalg.inv(hidden.new_zeros(0, 0))
    return layer(hidden.to(torch.float32).contiguous()) * position


@pytest.mark.parametrize("body", [_in_place, _several_results, _made_anew, _nothing_wasted])
def test_calls_of_all_kinds_are_repeated(body: Callable[..., Tensor]) -> None:
    replay = steps(_Toy(body), _CHECKS + 4)
    assert replay._program is not None and replay._checks == 0


def test_what_nothing_needs_is_not_repeated() -> None:
    replay = steps(_Toy(_nothing_wasted), _CHECKS)
    assert replay._program is not None
    assert torch.linalg.inv not in replay._program.__globals__.values()  # type: ignore[attr-defined]


def _number_of_a_tensor(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    return layer(hidden) * position.item()


def _branch_on_a_tensor(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    return layer(hidden) if position > 4 else hidden


_OUTSIDE = torch.ones(4)


def _from_elsewhere(layer: nn.Linear, hidden: Tensor, position: Tensor) -> Tensor:
    return layer(hidden) + _OUTSIDE


@pytest.mark.parametrize("body", [_number_of_a_tensor, _branch_on_a_tensor, _from_elsewhere])
def test_a_pass_that_a_list_of_calls_cannot_repeat_is_left_to_the_modules(body: Callable[..., Tensor]) -> None:
    replay = steps(_Toy(body), _CHECKS + 4)
    assert replay._program is None and replay._checks < 0


def test_an_error_of_the_model_is_its_own() -> None:
    toy = _Toy(lambda layer, hidden, position: layer(hidden[..., :3]))
    with pytest.raises(RuntimeError, match="shapes"):
        steps(toy, 1)
    assert toy.config._attn_implementation == "none"


def test_a_model_is_still_called_as_any_other() -> None:
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"])).eval()
    tokens = torch.tensor([text(5)])
    with torch.inference_mode():
        expected = model(input_ids=tokens, use_cache=False).logits
        replay_steps(model)
        assert torch.equal(model(input_ids=tokens, use_cache=False).logits, expected)
        assert torch.equal(model(tokens).logits, expected)
