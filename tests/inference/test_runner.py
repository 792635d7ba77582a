"""The ragged forward agrees with plain transformers, whatever is batched, kept or thrown away."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tandem.inference.runner import Block, ContextFullError, ModelRunner, Sequence, SequenceClosedError
from tests.inference.architectures import CONFIGS, CONTEXT, VOCABULARY, Pair, load, pair
from tests.support.tiny import tiny_llama


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def models(request: pytest.FixtureRequest) -> Pair:
    return pair(CONFIGS[request.param])


@pytest.fixture
def llama() -> ModelRunner:
    return ModelRunner(tiny_llama(context=CONTEXT))


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def agree(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_prefill_decode_and_verify_agree_with_transformers(models: Pair) -> None:
    tokens, sequence = text(40), models.runner.open()
    fed = 0
    for count, rows in ((17, 3), (1, 1), (1, 1), (6, 6), (1, 0), (9, 2), (5, 5)):
        [logits] = models.runner.forward([Block(sequence, tokens[fed : fed + count], rows)])
        fed += count
        assert sequence.length == fed
        assert len(logits) == rows
        agree(logits, models.expected(tokens[:fed], rows))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_mixed_batch_agrees_with_each_sequence_alone(models: Pair, size: int) -> None:
    """Prefill, decode and verify blocks side by side, with truncations in between."""
    chance = random.Random(size)
    sequences = [(models.runner.open(), text(80, seed)) for seed in range(size)]
    for _ in range(4):
        blocks, ends = [], []
        for sequence, tokens in sequences:
            count = chance.choice((1, 1, 4, 15))
            end = sequence.length + count
            blocks.append(Block(sequence, tokens[sequence.length : end], chance.randint(0, count)))
            ends.append(end)
        results = models.runner.forward(blocks)
        for (_, tokens), block, end, logits in zip(sequences, blocks, ends, results, strict=True):
            agree(logits, models.expected(tokens[:end], block.logits_rows))
        for sequence, _ in sequences:
            sequence.truncate(chance.randint(sequence.length // 2, sequence.length))


def test_rejected_tokens_leave_no_trace(models: Pair) -> None:
    kept, rejected, corrected = text(20), text(6, seed=1), text(6, seed=2)
    sequence = models.runner.open()
    models.runner.forward([Block(sequence, kept + rejected, 1)])
    sequence.truncate(len(kept))
    [logits] = models.runner.forward([Block(sequence, corrected, 6)])
    agree(logits, models.expected(kept + corrected, 6))


def test_growing_the_cache_keeps_what_it_held() -> None:
    """Text longer than the first buffers, one token at a time across the border."""
    runner = ModelRunner(tiny_llama(context=512))
    tokens = random.Random(0).choices(range(64), k=300)
    whole, stepwise = runner.open(), runner.open()
    [expected] = runner.forward([Block(whole, tokens, 60)])
    runner.forward([Block(stepwise, tokens[:240], 0)])
    rows = [runner.forward([Block(stepwise, [token], 1)])[0] for token in tokens[240:]]
    agree(torch.cat(rows), expected)


def test_a_block_beyond_the_context_is_refused_before_anything_is_fed(llama: ModelRunner) -> None:
    full, other = llama.open(), llama.open()
    llama.forward([Block(full, [1] * CONTEXT, 1)])
    with pytest.raises(ContextFullError, match=f"{CONTEXT + 1} tokens do not fit the context of {CONTEXT}"):
        llama.forward([Block(other, [1, 2], 1), Block(full, [3], 1)])
    assert (full.length, other.length) == (CONTEXT, 0)


@pytest.mark.parametrize("tokens, rows", [([], 0), ([1], 2), ([1, 64], 1), ([-1], 1)])
def test_a_block_that_makes_no_sense_is_refused(llama: ModelRunner, tokens: list[int], rows: int) -> None:
    with pytest.raises(ValueError):
        llama.forward([Block(llama.open(), tokens, rows)])


def test_one_sequence_cannot_have_two_blocks_in_a_step(llama: ModelRunner) -> None:
    sequence = llama.open()
    with pytest.raises(ValueError, match="one block"):
        llama.forward([Block(sequence, [1], 1), Block(sequence, [2], 1)])


def test_a_forward_that_fails_leaves_every_cache_as_it_was() -> None:
    models = pair(CONFIGS["llama"])
    tokens, sequences = text(30), [models.runner.open(), models.runner.open()]
    models.runner.forward([Block(sequence, tokens[:20], 0) for sequence in sequences])

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    # The last layer fails, so the first has stored its keys and values by then.
    hook = models.runner.loaded.model.model.layers[-1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        models.runner.forward([Block(sequence, [5, 5, 5], 1) for sequence in sequences])
    hook.remove()
    for sequence in sequences:
        assert sequence.length == 20
        [logits] = models.runner.forward([Block(sequence, tokens[20:], 10)])
        agree(logits, models.expected(tokens, 10))


def test_closing_frees_the_cache_and_refuses_more(llama: ModelRunner) -> None:
    sequence = llama.open()
    llama.forward([Block(sequence, [1, 2, 3], 0)])
    assert llama.cache.pool.held == 1
    sequence.close()
    sequence.close()
    assert llama.cache.pool.held == 0
    with pytest.raises(SequenceClosedError):
        llama.forward([Block(sequence, [1], 1)])


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_to_what_is_not_there_is_refused(llama: ModelRunner, length: int) -> None:
    sequence = llama.open()
    llama.forward([Block(sequence, [1, 2, 3], 0)])
    with pytest.raises(ValueError, match="cannot cut 3 tokens"):
        sequence.truncate(length)
    assert sequence.length == 3


def test_a_model_that_keeps_all_logits_gives_the_wanted_rows() -> None:
    models = pair(CONFIGS["llama"])
    inner = models.runner.loaded.model.forward
    models.runner.loaded.model.forward = lambda *, logits_to_keep, **keywords: inner(**keywords)
    first, second = text(9), text(5, seed=1)
    results = models.runner.forward(
        [Block(models.runner.open(), first, 2), Block(models.runner.open(), second, 1)]
    )
    agree(results[0], models.expected(first, 2))
    agree(results[1], models.expected(second, 1))


def test_bfloat16_models_give_float32_logits() -> None:
    models = pair(CONFIGS["llama"])
    runner = ModelRunner(load(models.plain.to(torch.bfloat16)))
    sequence: Sequence = runner.open()
    [logits] = runner.forward([Block(sequence, text(5), 2)])
    assert logits.dtype == torch.float32
    assert logits.shape == (2, VOCABULARY)


@pytest.mark.parametrize("knows", [True, False], ids=["keeps-rows", "gives-all-rows"])
@pytest.mark.parametrize("tokens, rows", [(9, 9), (12, 9), (16, 9), (16, 16), (16, 15), (30, 17), (70, 40), (40, 1)])
def test_rows_that_fill_up_a_step_are_never_taken_for_others(tokens: int, rows: int, knows: bool) -> None:
    models = pair(CONFIGS["llama"])
    inner = models.runner.loaded.model.forward
    if not knows:
        models.runner.loaded.model.forward = lambda *, logits_to_keep, **keywords: inner(**keywords)
    prompt = text(tokens, seed=tokens)
    sequence = models.runner.open()
    agree(models.runner.forward([Block(sequence, prompt, rows)])[0], models.expected(prompt, rows))
    more = text(11, seed=1)
    agree(models.runner.forward([Block(sequence, more, 3)])[0], models.expected(prompt + more, 3))


def test_steps_run_matrices_of_few_sizes() -> None:
    models = pair(CONFIGS["llama"])
    sizes = set()
    models.runner.loaded.model.model.layers[0].mlp.register_forward_pre_hook(
        lambda module, inputs: sizes.add(inputs[0].shape[1])
    )
    for count in range(1, 120):
        sequence = models.runner.open()
        models.runner.forward([Block(sequence, text(count), 1)])
        sequence.close()
    assert sizes == {*range(1, 9), *range(10, 25, 2), *range(32, 65, 8), 96, 128}
