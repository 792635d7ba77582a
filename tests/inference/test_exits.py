"""A sequence that leaves a model early: its logits are those of the first layers, and its cache is never taken for more
than it is."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tandem.inference.exits import ExitRunner, ExitSequence, exit_layers
from tandem.inference.precision import quantise
from tandem.inference.runner import Block, ModelRunner
from tests.inference.architectures import CONFIGS, VOCABULARY, load, pair
from tests.support.tiny import tiny_llama


def test_exits_are_after_any_layer_of_few_and_spread_over_many() -> None:
    assert exit_layers(2) == (1,)
    assert exit_layers(5) == (1, 2, 3, 4)
    assert exit_layers(30) == (3, 7, 10, 13, 17, 20, 23, 27)


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(64), k=length)


def runner(layers: int = 4) -> ExitRunner:
    return ExitRunner(tiny_llama(3, layers=layers))


def plain(tokens: list[int], exit: int, rows: int, layers: int = 4) -> Tensor:
    """By transformers alone: hidden states behind a layer, the norm, the output layer."""
    model: Any = tiny_llama(3, layers=layers).model
    with torch.inference_mode():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        # The last entry has been normed already.
        last = states[exit] if exit == layers else model.model.norm(states[exit])
        return model.lm_head(last)[0, -rows:]


def test_logits_are_those_of_the_first_layers() -> None:
    made, tokens = runner(), text(30)
    for exit in (1, 2, 3, 0):
        sequence = made.open()
        sequence.layers = exit
        for start, end, rows in ((0, 20, 2), (20, 21, 1), (21, 30, 9)):
            [logits] = made.forward([Block(sequence, tokens[start:end], rows)])
            torch.testing.assert_close(logits, plain(tokens[:end], exit or 4, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_other_architectures_are_left_as_a_smaller_model_of_theirs_would_be(name: str) -> None:
    """A model with fewer layers and the weights of the others is what the first layers are."""
    plain = pair(CONFIGS[name]).plain
    tokens = random.Random(1).choices(range(VOCABULARY), k=12)
    made = ExitRunner(load(copy.deepcopy(plain)))
    sequence, watched = made.open(), made.open()
    sequence.layers, watched.watch_from = 1, 0
    [logits, _] = made.forward([Block(sequence, tokens, 12), Block(watched, tokens, 0)])
    decoder: Any = plain.get_decoder()
    decoder.layers = decoder.layers[:1]
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert [watched.said[position][0] for position in range(12)] == expected.argmax(-1).tolist()


def test_a_quantised_model_is_left_early_too() -> None:
    """Its steps over one token are played back from a recording of all layers, and its parts are looked up elsewhere.
    What it says is what a model of so many layers says that was quantised then."""
    tokens = text(12)
    whole, smaller = tiny_llama(3, layers=4), tiny_llama(3, layers=4)
    decoder: Any = smaller.model.get_decoder()
    decoder.layers, decoder.config.num_hidden_layers = decoder.layers[:2], 2
    for loaded in (whole, smaller):
        quantise(loaded.model, "int8")
    made, other = ExitRunner(whole), ModelRunner(smaller)
    sequence, expected = made.open(), other.open()
    sequence.layers = 2
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 12)):
        [logits] = made.forward([Block(sequence, tokens[start:end], 1)])
        torch.testing.assert_close(logits, other.forward([Block(expected, tokens[start:end], 1)])[0])


def test_sequences_of_one_step_may_leave_at_different_layers() -> None:
    made = runner()
    texts = [text(9 + index, index) for index in range(5)]
    exits = (2, 0, 1, 2, 0)
    sequences = [made.open() for _ in exits]
    for sequence, exit in zip(sequences, exits, strict=True):
        sequence.layers = exit
    found = made.forward([Block(each, tokens, 2) for each, tokens in zip(sequences, texts, strict=True)])
    for logits, tokens, exit in zip(found, texts, exits, strict=True):
        torch.testing.assert_close(logits, plain(tokens, exit or 4, 2), rtol=1e-4, atol=1e-4)


def test_a_pass_through_all_layers_notes_what_each_exit_says() -> None:
    made, tokens = runner(), text(40)
    first, other = made.open(), made.open()
    first.watch_from = 25
    made.forward([Block(other, tokens[:7], 1), Block(first, tokens, 0)])
    assert sorted(first.said) == list(range(25, 40)) and not other.said
    for place, exit in enumerate(made.exits):
        expected = plain(tokens, exit, 40).argmax(-1)[25:].tolist()
        assert [first.said[position][place] for position in range(25, 40)] == expected


def test_nobody_finds_what_is_not_there_in_all_layers() -> None:
    """Three blocks of the cache in all layers, then two in one layer: another sequence of that text takes three."""
    made, tokens = runner(), text(90)
    sequence = made.open()
    made.forward([Block(sequence, tokens[:50], 0)])
    sequence.layers = 1
    made.forward([Block(sequence, tokens[50:84], 0)])
    assert (sequence.whole, sequence.cached) == (50, 84)
    other = made.open()
    other.table.match(tokens, 90)
    assert other.cached == 48
    sequence.truncate(sequence.whole)
    sequence.layers = 0
    made.forward([Block(sequence, tokens[50:85], 0)])
    assert sequence.whole == 85
    again = made.open()
    again.table.match(tokens, 90)
    assert again.cached == 80
    [logits] = made.forward([Block(sequence, tokens[85:], 1)])
    torch.testing.assert_close(logits, plain(tokens, 4, 1), rtol=1e-4, atol=1e-4)


def test_what_gave_way_is_run_again_as_deep_as_it_is_to_be() -> None:
    made, tokens = runner(), text(30)
    sequence = made.open()
    made.forward([Block(sequence, tokens[:20], 0)])
    sequence.layers = 2
    sequence.drop()
    [logits] = made.forward([Block(sequence, tokens[20:], 1)])
    assert (sequence.whole, sequence.cached) == (0, 30)
    torch.testing.assert_close(logits, plain(tokens, 2, 1), rtol=1e-4, atol=1e-4)


def test_a_pass_that_fails_leaves_all_sequences_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tokens = runner(), text(30)
    shallow, deep = made.open(), made.open()
    made.forward([Block(shallow, tokens[:20], 0), Block(deep, tokens[:20], 0)])
    shallow.layers = 1
    real = made._run_whole

    def fails(chunks: object) -> list[Tensor]:
        raise RuntimeError("the second group")

    monkeypatch.setattr(made, "_run_whole", fails)
    with pytest.raises(RuntimeError, match="second group"):
        made.forward([Block(shallow, tokens[20:25], 1), Block(deep, tokens[20:25], 1)])
    assert [(each.length, each.cached, each.whole) for each in (shallow, deep)] == [(20, 20, 20)] * 2
    monkeypatch.setattr(made, "_run_whole", real)
    for sequence, exit in ((shallow, 1), (deep, 4)):
        [logits] = made.forward([Block(sequence, tokens[20:], 1)])
        torch.testing.assert_close(logits, plain(tokens, exit, 1), rtol=1e-4, atol=1e-4)


def test_the_model_itself_is_left_as_it_was() -> None:
    made = runner()
    assert isinstance(made.open(), ExitSequence)
    assert len(made.loaded.model.get_decoder().layers) == 4
    sequence = made.open()
    sequence.watch_from = 0
    made.forward([Block(sequence, text(5), 1)])
    assert not any(layer._forward_hooks for layer in made.loaded.model.get_decoder().layers)
