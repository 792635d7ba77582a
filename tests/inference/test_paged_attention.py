"""Wherever a sequence's entries lie, and however they came there, its logits are those of plain transformers."""

from __future__ import annotations

import copy
import random
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config

from tandem.inference import attention, step
from tandem.inference.cache import KeyValueCache
from tandem.inference.runner import Block, Chunk, ModelRunner, Sequence
from tests.inference.architectures import CONFIGS, CONTEXT, VOCABULARY, Pair, load, pair

# Beside those: keys and values of different sizes, for which there is no kernel that can be merged.
_LATENT = DeepseekV3Config(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
    n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
    qk_nope_head_dim=8, v_head_dim=12, max_position_embeddings=CONTEXT, initializer_range=0.3, bos_token_id=None,
    eos_token_id=None, pad_token_id=None,
)  # fmt: skip
_CONFIGS = CONFIGS | {"deepseek, latent": _LATENT}

#: Lengths of the runs of free blocks, by the number of extents in which a full context comes to lie.
_RUNS = {1: [8], 2: [4, 4], 3: [3, 3, 2], 4: [2, 2, 2, 2], 8: [1] * 8}


@pytest.fixture(scope="module", params=_CONFIGS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def models(request: pytest.FixtureRequest) -> Pair:
    return pair(_CONFIGS[request.param])


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def small_runner(models: Pair, blocks: int) -> ModelRunner:
    """The same model over a cache of `blocks` blocks."""
    return ModelRunner(models.runner.loaded, cache_bytes=blocks * models.runner.cache.block_bytes)


def in_pieces(models: Pair, runs: list[int]) -> ModelRunner:
    """A runner whose free blocks are `runs`, each between blocks that are held."""
    runner = small_runner(models, sum(runs) + len(runs) + 1)
    pool, first = runner.cache.pool, 1
    pool.allocate(pool.count)
    for run in runs:
        pool.release(range(first, first + run))
        first += run + 1
    return runner


def feed(models: Pair, runner: ModelRunner, *feeds: tuple[Sequence, list[int], int]) -> None:
    """One pass that brings each sequence to `tokens`; logits of its last rows must agree."""
    blocks = [Block(sequence, tokens[sequence.length :], rows) for sequence, tokens, rows in feeds]
    for (sequence, tokens, rows), logits in zip(feeds, runner.forward(blocks), strict=True):
        assert sequence.cached == len(tokens)
        agree(logits, models.expected(tokens, rows))


def agree(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=["merged", "copied", "in 2 sections", "in 5 sections"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with a sequence in pieces, and with one that lies in one piece, however long it is."""
    monkeypatch.setattr(step, "_MOST_COPIED_BYTES", 0 if request.param == "merged" else 1 << 60)
    if "sections" in request.param:
        monkeypatch.setattr(step, "balanced_sections", lambda heads, threads, length: int(request.param.split()[1]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("extents", _RUNS)
def test_a_sequence_in_pieces_is_attended_to_as_one(models: Pair, extents: int) -> None:
    """Prefill, decode and verify across the borders of blocks: the last piece begins among the new tokens or before."""
    runner, tokens = in_pieces(models, _RUNS[extents]), text(CONTEXT)
    sequence, seen = runner.open(), set()
    sequence.table.reserve(CONTEXT)
    counts = (3, 34, 1, 9, 6, 1, 1, 7, 5, 26, 6, 13, 1, 1, 14)
    for length, count in zip(accumulate(counts), counts, strict=True):
        *_, (start, stop) = pieces = list(sequence.table.extents(length))
        seen.add((len(pieces), length - (stop - start) <= length - count))
        feed(models, runner, (sequence, tokens[:length], min(count, 9)))
    assert {pieces for pieces, _ in seen} >= {1, extents}
    assert {begun for _, begun in seen} == ({True} if extents == 1 else {True, False})


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_a_batch_of_sequences_in_pieces_agrees_with_each_alone(models: Pair, size: int) -> None:
    """Prefill, decode and verify side by side, truncated in between, while some leave and others come."""
    chance = random.Random(size)
    runner = small_runner(models, 5 * size)
    sequences = [(runner.open(), text(80, seed)) for seed in range(size)]
    for turn in range(3):
        feeds = []
        for sequence, tokens in sequences:
            count = chance.choice((1, 1, 6, 20))
            feeds.append((sequence, tokens[: sequence.length + count], chance.randint(0, count)))
        feed(models, runner, *feeds)
        for sequence, _ in sequences:
            sequence.truncate(chance.randint(sequence.length // 2, sequence.length))
        for index in chance.sample(range(size), size // 3):
            sequences[index][0].close()
            sequences[index] = runner.open(), text(80, 100 * turn + index)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("extents", [1, 3])
@pytest.mark.parametrize("length", [32, 40])
def test_a_fork_and_its_origin_go_on_by_themselves(models: Pair, extents: int, length: int) -> None:
    runner = in_pieces(models, _RUNS[extents])
    common, one, other = text(length), text(20, seed=1), text(20, seed=2)
    first = runner.open()
    feed(models, runner, (first, common, 1))
    second = first.fork()
    held = runner.cache.pool.held
    feed(models, runner, (second, common + other[:3], 3))
    feed(models, runner, (first, common + one[:5], 5), (second, common + other[:9], 6))
    assert runner.cache.pool.held == held + 2
    first.truncate(length - 2)
    feed(models, runner, (first, common[:-2] + one, 4), (second, common + other, 1))
    second.close()
    feed(models, runner, (first, common[:-2] + one + other, 7))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("extents", [1, 4])
def test_a_text_that_begins_alike_is_not_run_again(models: Pair, extents: int) -> None:
    runner = in_pieces(models, _RUNS[extents])
    common = text(40)
    first, second = runner.open(), runner.open()
    feed(models, runner, (first, common, 1))
    tokens = common[:35] + text(9, seed=1)
    second.extend(tokens)
    second.table.match(tokens, len(tokens) - 3)
    assert second.cached == 32
    [logits] = runner.run([Chunk(second, second.missing, 3)])
    agree(logits, models.expected(tokens, 3))
    assert second.table.blocks[:2] == first.table.blocks[:2]
    first.close()
    feed(models, runner, (second, tokens + common[:10], 4))


def test_candidates_that_may_be_rejected_are_not_found_by_others() -> None:
    models = pair(CONFIGS["llama"])
    tokens, runner = text(33), small_runner(models, 8)
    sequence, other = runner.open(), runner.open()
    feed(models, runner, (sequence, tokens[:27], 1))
    feed(models, runner, (sequence, tokens[:32], 5))
    other.table.match(tokens, 33)
    assert other.cached == 16
    feed(models, runner, (sequence, tokens, 1))  # they were kept
    other.table.match(tokens, 33)
    assert other.cached == 32


def test_what_gave_way_is_run_again(models: Pair) -> None:
    runner = in_pieces(models, _RUNS[2])
    tokens, sequence, other = text(60), runner.open(), runner.open()
    feed(models, runner, (sequence, tokens[:30], 1))
    sequence.drop()
    assert (sequence.length, sequence.cached) == (30, 0)
    feed(models, runner, (other, text(20, seed=1), 1))
    feed(models, runner, (sequence, tokens[:33], 3), (other, text(21, seed=1), 1))
    sequence.drop()
    sequence.truncate(25)
    feed(models, runner, (sequence, tokens[:26], 1))


@pytest.mark.parametrize("name", ["llama", "mistral, sliding window", "gemma2, soft cap"])
def test_a_decode_step_copies_no_long_sequence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In up to four pieces each is read where it lies; with a window, no more is copied than the window has."""
    monkeypatch.setattr(step, "_MOST_COPIED_BYTES", 0)
    models, copied, merged = pair(CONFIGS[name]), [], []
    gather, merge = KeyValueCache.gather, attention._merge

    def counted(self: KeyValueCache, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        copied.append(len(slots))
        return gather(self, layer, slots)

    monkeypatch.setattr(KeyValueCache, "gather", counted)
    def noted(outputs: Tensor, sums: Tensor, dim: int) -> Tensor:
        merged.append(outputs.shape[dim])
        return merge(outputs, sums, dim)

    monkeypatch.setattr(attention, "_merge", noted)
    window, softcap = (getattr(models.plain.config, key, None) for key in ("sliding_window", "attn_logit_softcapping"))
    for extents in (2, 3, 4):
        runner, tokens = in_pieces(models, _RUNS[extents]), text(CONTEXT)
        sequence = runner.open()
        feed(models, runner, (sequence, tokens[:113], 1))  # the last block has begun
        copied.clear()
        merged.clear()
        for length in range(115, CONTEXT, 2):
            feed(models, runner, (sequence, tokens[:length], 2))
        if softcap is None:
            assert max(copied, default=0) <= (0 if window is None else window + 1)
            assert set(merged) == ({extents} if window is None else set())
        else:  # there is no kernel for it that can be merged
            assert not merged


def test_a_sequence_in_more_than_four_pieces_is_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pair(CONFIGS["llama"])
    monkeypatch.setattr(step, "_MOST_COPIED_BYTES", 0)
    monkeypatch.setattr(attention, "_merge", lambda *arguments: pytest.fail("merged"))
    runner = in_pieces(models, _RUNS[8])
    feed(models, runner, (runner.open(), text(CONTEXT), 9))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("extents", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["llama", "qwen2, sliding window", "gpt-neox"])
def test_bfloat16_is_as_near_to_the_exact_logits_as_plain_transformers(name: str, extents: int) -> None:
    """Both round at every operation, in another order, so each is compared with fp32 of the same weights.

    bfloat16 has 8 bits: an error of 2^-8 for each rounding, over some tens of them. The mean error of ours may exceed
    that of transformers by a fifth, the largest by a half.
    """
    exact = pair(CONFIGS[name])
    rounded = copy.deepcopy(exact.plain).to(torch.bfloat16)
    exact = Pair(exact.runner, copy.deepcopy(rounded).float())
    models = Pair(ModelRunner(load(copy.deepcopy(rounded))), rounded)
    runner, tokens, got = in_pieces(models, _RUNS[extents]), text(CONTEXT), []
    sequence = runner.open()
    for start, stop in ((0, 60), (60, 61), (61, 67), (67, 97), (97, 98), (98, CONTEXT)):
        got += runner.forward([Block(sequence, tokens[start:stop], stop - start)])
    expected = exact.expected(tokens, CONTEXT)
    ours, theirs = ((logits - expected).abs() for logits in (torch.cat(got), models.expected(tokens, CONTEXT).float()))
    assert ours.mean() <= 1.2 * theirs.mean()
    assert ours.max() <= 1.5 * theirs.max()


@pytest.mark.parametrize(
    ("heads", "threads", "length", "expected"),
    [
        (3, 2, 383, 1), (3, 2, 384, 2), (3, 2, 5000, 2), (4, 2, 5000, 1), (3, 1, 5000, 1), (8, 16, 5000, 2),
        (3, 16, 5000, 5), (2, 16, 700, 3), (1, 96, 5000, 15),
    ],
)  # fmt: skip
def test_keys_are_cut_into_the_fewest_sections_that_keep_all_threads_busy(
    heads: int, threads: int, length: int, expected: int
) -> None:
    assert step.balanced_sections(heads, threads, length) == expected


@pytest.mark.parametrize(("count", "length"), [(1, 7), (2, 8), (2, 9), (3, 11), (5, 9), (5, 32)])
def test_sections_of_the_keys_are_views_that_together_hold_each_entry(count: int, length: int) -> None:
    cache = small_runner(pair(CONFIGS["llama"]), 4).cache
    cache = KeyValueCache(cache.shape, 4, cache.device)  # a normal tensor, which a test may write to
    slots = torch.arange(5, 5 + length)
    numbers = torch.arange(length, dtype=torch.float32).expand(cache.shape.heads, cache.shape.key_dim, length).mT
    cache.write(0, slots, numbers, -numbers)
    keys, values = cache.sections(5, 5 + length, count)[0]
    assert keys.shape[:2] == values.shape[:2] == (count, cache.shape.heads)
    own = keys.shape[2] - length % count  # the others are the next one's first
    held = [keys[index, -1, : own if index < count - 1 else None, 0].tolist() for index in range(count)]
    assert sum(held, []) == list(range(length))
    torch.testing.assert_close(values, -keys)
    assert keys.untyped_storage().data_ptr() == cache._keys.untyped_storage().data_ptr()
