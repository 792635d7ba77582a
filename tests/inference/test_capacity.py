"""How large a cache becomes, and which sizes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tandem.inference import capacity
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.capacity import GPU_SHARE, available_bytes, blocks_for
from tandem.inference.table import BLOCK_SIZE
from tandem.models import ModelError

CPU = torch.device("cpu")
#: A kilobyte a token, 16 a block.
SHAPE = EntryShape(layers=4, heads=2, key_dim=40, value_dim=24, dtype=torch.bfloat16)
GIB = 1 << 30


def machine(monkeypatch: pytest.MonkeyPatch, available: int, container: int = 1 << 62) -> None:
    monkeypatch.setattr(capacity, "_machine", lambda: available)
    monkeypatch.setattr(capacity, "_container", lambda: container)


def blocks(cache_bytes: int | None) -> int:
    return blocks_for(SHAPE, CPU, cache_bytes=cache_bytes, gpu_share=GPU_SHARE)


def test_an_entry_has_keys_and_values_of_all_layers() -> None:
    assert SHAPE.bytes == 4 * 2 * (40 + 24) * 2 == 1024
    cache = KeyValueCache(SHAPE, 3, CPU)
    assert (cache.block_bytes, cache.capacity) == (16 * 1024, 3 * BLOCK_SIZE)


@pytest.mark.parametrize(
    "available, expected",
    [(4 * GIB, GIB), (16 * GIB, 4 * GIB), (500 * GIB, 4 * GIB)],
    ids=["a-quarter", "a-quarter-of-more", "at-most-four-gibibytes"],
)
def test_a_cache_takes_a_quarter_of_the_memory_and_no_more_than_four_gibibytes(
    monkeypatch: pytest.MonkeyPatch, available: int, expected: int
) -> None:
    machine(monkeypatch, available)
    assert blocks(None) == expected // (16 * 1024)


def test_a_container_counts_by_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 100 * GIB, container=2 * GIB)
    assert available_bytes(CPU) == 2 * GIB
    assert blocks(None) == GIB // 2 // (16 * 1024)


def test_what_is_asked_for_is_given_in_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, GIB)
    assert blocks(16 * 1024) == 1
    assert blocks(3 * 16 * 1024 - 1) == 2
    assert blocks(GIB) == GIB // (16 * 1024)


def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, GIB)
    with pytest.raises(ModelError) as refused:
        blocks(GIB + 1)
    assert str(refused.value) == (
        f"a key-value cache of {GIB + 1} bytes does not fit the {GIB} bytes available on cpu; ask for less"
    )


@pytest.mark.parametrize("asked, available", [(16 * 1024 - 1, GIB), (0, GIB), (None, 4 * 16 * 1024 - 4), (None, 0)])
def test_less_than_a_block_is_refused(monkeypatch: pytest.MonkeyPatch, asked: int | None, available: int) -> None:
    machine(monkeypatch, available)
    with pytest.raises(ModelError, match="has not one block of 16 tokens, which takes 16384 bytes with this model"):
        blocks(asked)


def test_blocks_are_no_more_than_can_be_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 100 * GIB)
    assert blocks(90 * GIB) == 1 << 18


def test_a_gpu_takes_the_share_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * GIB, 80 * GIB))
    found = blocks_for(SHAPE, torch.device("cuda", 0), cache_bytes=None, gpu_share=0.05)
    assert found == 2 * GIB // (16 * 1024)
    with pytest.raises(ModelError, match="available on cuda:0; ask for less"):
        blocks_for(SHAPE, torch.device("cuda", 0), cache_bytes=41 * GIB, gpu_share=0.05)


def group(root: Path, version: int, limit: str, used: int, statistics: str | None = None) -> int:
    """What a control group with these files leaves."""
    names = (
        ("memory.max", "memory.current", "memory.stat")
        if version == 2
        else ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    )
    for name, content in zip(names, (limit, str(used), statistics), strict=True):
        if content is not None:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(content + "\n")
    return capacity._container(root)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(tmp_path: Path, version: int) -> None:
    assert group(tmp_path, version, str(8 * GIB), 3 * GIB) == 5 * GIB


@pytest.mark.parametrize("version, name", [(1, "total_inactive_file"), (2, "inactive_file")])
def test_pages_of_files_that_were_read_leave_room(tmp_path: Path, version: int, name: str) -> None:
    """A model that has been loaded from a file would else seem to fill the container twice."""
    statistics = f"anon {GIB}\nactive_file 4096\n{name} {2 * GIB}\nslab 1"
    assert group(tmp_path, version, str(4 * GIB), 4 * GIB, statistics) == 2 * GIB
    assert group(tmp_path, version, str(4 * GIB), GIB, statistics) == 4 * GIB  # the two were read at different times


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_that_is_over_its_limit_has_nothing(tmp_path: Path, version: int) -> None:
    assert group(tmp_path, version, str(GIB), GIB + 4096) == 0


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    assert capacity._container(tmp_path) >= 1 << 60
    assert group(tmp_path, 2, "max", GIB) >= 1 << 60
    assert group(tmp_path, 1, "9223372036854771712", GIB) >= 1 << 60


def test_files_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    assert group(tmp_path, 2, "unlimited", GIB) >= 1 << 60
    assert group(tmp_path, 2, str(2 * GIB), GIB, "inactive_file\n\nmore and more") == GIB


def test_this_machine_has_some_memory() -> None:
    assert 0 < available_bytes(CPU) < 1 << 50
