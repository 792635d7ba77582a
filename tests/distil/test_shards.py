"""Shards on disk: what is read is what was written, and a file is a whole shard or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tandem.distil import shards
from tandem.distil.shards import Sample, ShardError, read_shard, shard_path, write_shard

_LENGTHS = [(1, 1), (3, 7), (20, 2), (5, 5)]


def _samples(seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Sample(
            tokens=torch.randint(0, 50_000, (prompt + answer,), generator=generator, dtype=torch.int32),
            prompt_length=prompt,
            temperature=(0.0, 0.7, 1.0)[index % 3],
            top_ids=torch.randint(0, 50_000, (answer, 4), generator=generator, dtype=torch.int32),
            top_log_probs=-torch.rand(answer, 4, generator=generator).to(torch.float16),
        )
        for index, (prompt, answer) in enumerate(_LENGTHS)
    ]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 7)
    write_shard(path, _samples())
    read = read_shard(path)
    assert len(read) == len(_LENGTHS)
    for found, written, (prompt, answer) in zip(read, _samples(), _LENGTHS, strict=True):
        assert (found.prompt_length, len(found.answer)) == (prompt, answer)
        assert found.temperature == pytest.approx(written.temperature)
        for name in ("tokens", "top_ids", "top_log_probs"):
            assert torch.equal(getattr(found, name), getattr(written, name)), name
            assert getattr(found, name).dtype == getattr(written, name).dtype, name


def test_the_same_samples_are_the_same_bytes(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(shard_path(tmp_path, number), _samples())
    write_shard(shard_path(tmp_path, 3), _samples(seed=1))
    first, second, third, other = (path.read_bytes() for path in shards.shards(tmp_path))
    assert first == second == third != other


def test_a_shard_that_is_not_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(shard_path(tmp_path, 0), _samples())
    whole = shard_path(tmp_path, 0).read_bytes()

    def ends_in_the_middle(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "save_file", ends_in_the_middle)
    for number in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_shard(shard_path(tmp_path, number), _samples(seed=1))
    assert shards.shards(tmp_path) == [shard_path(tmp_path, 0)]
    assert shard_path(tmp_path, 0).read_bytes() == whole


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_damaged_file_is_named(tmp_path: Path, kept: float) -> None:
    path = shard_path(tmp_path, 3)
    write_shard(path, _samples())
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ShardError, match="shard-00003"):
        read_shard(path)


def test_another_kind_of_file_is_no_shard(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 0)
    save_file({"tokens": torch.zeros(3)}, path)
    with pytest.raises(ShardError, match="shard-00000"):
        read_shard(path)
    with pytest.raises(ShardError, match="shard-00001"):
        read_shard(shard_path(tmp_path, 1))
