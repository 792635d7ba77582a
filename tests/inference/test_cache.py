"""The cache of one sequence against a list that is simply cut and extended."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.inference.cache import KeyValueCache

_LAYERS, _HEADS, _DIM = 2, 2, 3

_operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 200)),
        st.tuples(st.just("fail"), st.integers(1, 200)),
        st.tuples(st.just("truncate"), st.integers(0, 100)),
    ),
    max_size=20,
)


def _entries(first: int, count: int, layer: int) -> torch.Tensor:
    """[heads, count, dim], each entry told from all others."""
    numbers = torch.arange(first, first + count, dtype=torch.float32) + 10_000 * layer
    return numbers.view(1, count, 1).expand(_HEADS, count, _DIM)


@settings(max_examples=60, deadline=None)
@given(_operations)
def test_the_cache_holds_what_a_list_would(operations: list[tuple[str, int]]) -> None:
    cache, expected, fresh = KeyValueCache(_LAYERS), [], 0
    for kind, number in operations:
        if kind == "truncate":
            keep = len(expected) * number // 100
            cache.truncate(keep)
            expected = expected[:keep]
            continue
        touched = _LAYERS if kind == "append" else 1  # a pass that fails got through one layer only
        for layer in range(touched):
            new = _entries(fresh, number, layer)
            keys, values = cache.append(layer, new, -new)
            want = torch.tensor([*expected, *range(fresh, fresh + number)], dtype=torch.float32) + 10_000 * layer
            assert torch.equal(keys, want.view(1, -1, 1).expand(_HEADS, -1, _DIM))
            assert torch.equal(values, -keys)
        if kind == "append":
            cache.advance(number)
            expected += range(fresh, fresh + number)
        fresh += number
        assert cache.length == len(expected)
    cache.free()
    assert (cache.length, cache.bytes) == (0, 0)


def test_growth_copies_each_entry_a_bounded_number_of_times() -> None:
    """One by one to 20,000 entries: the buffer is replaced some tens of times, not thousands."""
    cache, sizes = KeyValueCache(1), set()
    entry = torch.zeros(1, 1, 1)
    for _ in range(20_000):
        cache.append(0, entry, entry)
        cache.advance(1)
        sizes.add(cache.bytes)
    assert len(sizes) < 20
    assert cache.bytes <= 2 * 4 * 20_000 * 1.6


@pytest.mark.parametrize("length", [-1, 1])
def test_an_empty_cache_cannot_be_cut(length: int) -> None:
    with pytest.raises(ValueError, match="cannot cut 0 entries"):
        KeyValueCache(1).truncate(length)
