"""A head that reads another model's features: which token goes with which, however a text is cut into passes."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tandem.inference.empty import empty_model
from tandem.inference.feeding import FedRunner, FedSequence, fed_inputs, make_fed
from tandem.inference.loaded import LoadedModel
from tandem.inference.precision import quantise
from tandem.inference.replay import Replay
from tandem.inference.runner import Block, ModelRunner
from tandem.models import UnsupportedModelError
from tests.models.checks import refused
from tests.support.tiny import tiny_head, tiny_llama

WIDTH = 4


def counting_head() -> LoadedModel:
    """A head whose layer adds nothing, so that its state at a token is W [e; f]. e of token k is (k, 0, 0, 0), and W
    gives (e_0, f_0, f_1, 2 f_0 + e_0)."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = empty_model(config, torch.float32)
    make_fed(model)
    weights = {name: torch.ones(blank.shape) * 0.1 for name, blank in model.state_dict().items()}
    for name in weights:
        if "o_proj" in name or "down_proj" in name:
            weights[name] = torch.zeros_like(weights[name])
    weights["model.embed_tokens.weight"] = torch.outer(torch.arange(16.0), torch.eye(WIDTH)[0])
    feed = torch.zeros(WIDTH, 2 * WIDTH)
    feed[0, 0] = feed[1, WIDTH] = feed[2, WIDTH + 1] = feed[3, 0] = 1
    feed[3, WIDTH] = 2
    weights["feed.weight"] = feed
    model.load_state_dict(weights, assign=True)
    model = model.eval().requires_grad_(False)
    return LoadedModel(model, 16, 64, "float32", 0, (), torch.device("cpu"), is_fed=True)


def test_each_token_is_read_with_the_feature_before_it() -> None:
    """By hand (EAGLE, figure 5: the feature of a token and the embedding of the next one). The text is 7 3 5, and the
    target's states at its tokens are (70, 1, 0, 0), (30, 2, 0, 0) and one that nobody knows yet. So 3 is read with the
    first and 5 with the second; what the head makes of 5 is read with 9, the first candidate."""
    runner = FedRunner(counting_head())
    sequence = runner.open()
    sequence.take_in(torch.tensor([[70.0, 1, 0, 0], [30.0, 2, 0, 0]]))
    sequence.states_from = 0
    runner.forward([Block(sequence, [3, 5], 1)])
    assert [sequence.states[place].tolist() for place in (0, 1)] == [[3, 70, 1, 143], [5, 30, 2, 65]]
    sequence.take_in(sequence.states[1].unsqueeze(0))
    runner.forward([Block(sequence, [9], 1)])
    assert sequence.states[2].tolist() == [9, 5, 30, 19]


def run(runner: FedRunner, sequence: FedSequence, tokens: list[int], features: torch.Tensor) -> torch.Tensor:
    sequence.take_in(features)
    return runner.forward([Block(sequence, tokens, len(tokens))])[0]


def test_in_any_pieces_and_beside_others_it_says_what_transformers_says() -> None:
    head, random = tiny_head(tiny_llama(2)), torch.Generator().manual_seed(1)
    tokens, features = [5, 9, 2, 7, 11, 3], torch.randn(6, 64, generator=random)
    with torch.inference_mode():
        inputs = fed_inputs(tiny_head(tiny_llama(2)).model, torch.tensor([tokens]), features.unsqueeze(0))
        expected = tiny_head(tiny_llama(2)).model(inputs_embeds=inputs, use_cache=False).logits[0]
    runner = FedRunner(head)
    torch.testing.assert_close(run(runner, runner.open(), tokens, features), expected, rtol=1e-3, atol=1e-3)
    pieces, other = runner.open(), runner.open()
    run(runner, pieces, tokens[:2], features[:2])
    pieces.take_in(features[2:])
    other.take_in(features[3:5])
    together = runner.forward([Block(other, [1, 2], 2), Block(pieces, tokens[2:], 4)])
    torch.testing.assert_close(together[1], expected[2:], rtol=1e-3, atol=1e-3)
    pieces.truncate(3)
    assert len(pieces.inputs) == 3
    torch.testing.assert_close(run(runner, pieces, tokens[3:], features[3:]), expected[3:], rtol=1e-3, atol=1e-3)


def test_quantised_it_says_nearly_the_same() -> None:
    tokens, features = [5, 9, 2, 7], torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    expected = run(runner := FedRunner(tiny_head(tiny_llama(2))), runner.open(), tokens, features)
    head = tiny_head(tiny_llama(2))
    quantise(head.model, "int8")
    assert type(head.model.get_submodule("feed")) is not torch.nn.Linear
    found = run(runner := FedRunner(head), runner.open(), tokens, features)
    assert float((found - expected).norm() / expected.norm()) < 0.05
    assert not torch.equal(found, expected)


def test_nobody_finds_in_the_cache_what_was_read_with_other_features() -> None:
    runner = FedRunner(tiny_head(tiny_llama(2)))
    tokens = list(range(1, 40))
    sequence = runner.open()
    sequence.take_in(torch.zeros(39, 64))
    runner.forward([Block(sequence, tokens, 1)])
    sequence.close()
    fresh = runner.open()
    fresh.extend(tokens)
    fresh.table.match(tokens, len(tokens) - 1)
    assert fresh.cached == 0


def test_a_model_whose_final_norm_is_not_found_is_refused() -> None:
    model = LlamaForCausalLM(tiny_llama(2).model.config)
    model.model.norm = torch.nn.Identity()
    with refused(UnsupportedModelError, "LlamaForCausalLM cannot be fed with features", "its final norm"):
        make_fed(model)


@pytest.mark.parametrize("runner", [ModelRunner, FedRunner])
def test_states_are_noted_only_where_they_are_wanted(runner: type[ModelRunner]) -> None:
    running = runner(tiny_head(tiny_llama(2)) if runner is FedRunner else tiny_llama(2))
    one, other = running.open(), running.open()
    for sequence in (one, other):
        if isinstance(sequence, FedSequence):
            sequence.take_in(torch.zeros(3, 64))
    one.states_from = 1
    running.forward([Block(other, [1, 2, 3], 1), Block(one, [4, 5, 6], 1)])
    assert sorted(one.states) == [1, 2] and other.states == {}


def test_a_recorded_pass_notes_states_too() -> None:
    """Of a quantised model passes over one token are repeated from a recording, which calls no module."""
    loaded = tiny_llama(2)
    quantise(loaded.model, "int8")
    runner = ModelRunner(loaded)
    sequence = runner.open()
    for token in range(1, 9):
        runner.forward([Block(sequence, [token], 1)])
    sequence.states_from = 9
    runner.forward([Block(sequence, [9], 1)])
    assert sequence.states == {}
    logits = runner.forward([Block(sequence, [10], 1)])[0]
    torch.testing.assert_close(loaded.model.get_output_embeddings()(sequence.states[9]), logits[0])
    replay = loaded.model.forward
    assert isinstance(replay, Replay) and replay._checks == 0 and not replay.is_paused
