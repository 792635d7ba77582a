"""What the target wrote, on disk: shards of whole sequences, each with the target's distributions over its answer.

Of each distribution the likeliest entries are kept, at temperature 1 and of the whole vocabulary, so that training
needs no further pass of the target. A shard is one file of safetensors that appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_FORMAT = "tandem-distil-1"
_KEYS = {"tokens", "ends", "prompt_lengths", "temperatures", "top_ids", "top_log_probs"}


class ShardError(ValueError):
    """A file is no shard, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence. tokens: int32 [T], prompt and answer. prompt_length: tokens before the answer, at least 1.
    temperature: that the answer was drawn at; 0: greedy. top_ids: int32 [T - prompt_length, K], likeliest first, row i
    of the place of tokens[prompt_length + i]. top_log_probs: fp16, the same shape, nats, at temperature 1."""

    tokens: Tensor
    prompt_length: int
    temperature: float
    top_ids: Tensor
    top_log_probs: Tensor

    @property
    def answer(self) -> Tensor:
        return self.tokens[self.prompt_length :]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.safetensors"


def shards(folder: Path) -> list[Path]:
    """Those of a folder, in order."""
    return sorted(folder.glob("shard-*.safetensors"))


def write_shard(path: Path, samples: Sequence[Sample]) -> None:
    """Writes at least one sample; all have the same K."""
    ends = torch.tensor([len(sample.tokens) for sample in samples]).cumsum(0)
    tensors = {
        "tokens": torch.cat([sample.tokens for sample in samples]).to(torch.int32),
        "ends": ends,
        "prompt_lengths": torch.tensor([sample.prompt_length for sample in samples], dtype=torch.int32),
        "temperatures": torch.tensor([sample.temperature for sample in samples], dtype=torch.float32),
        "top_ids": torch.cat([sample.top_ids for sample in samples]).to(torch.int32),
        "top_log_probs": torch.cat([sample.top_log_probs for sample in samples]).to(torch.float16),
    }
    scratch = path.with_suffix(".part")
    save_file(tensors, scratch, metadata={"format": _FORMAT})
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(path)


def read_shard(path: Path) -> list[Sample]:
    """Raises ShardError, which names the file."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != _FORMAT or set(file.keys()) != _KEYS:
                raise ShardError(f"{path} is no shard of this version of Tandem; delete it to have it made again")
            tensors = {key: file.get_tensor(key) for key in _KEYS}
    except (SafetensorError, OSError) as error:
        raise ShardError(f"{path} cannot be read: {error}; delete it to have it made again") from error
    return list(_samples(tensors))


def _samples(tensors: dict[str, Tensor]) -> Iterator[Sample]:
    start = row = 0
    columns = (tensors[key].tolist() for key in ("ends", "prompt_lengths", "temperatures"))
    for end, prompt_length, temperature in zip(*columns, strict=True):
        rows = end - start - prompt_length
        yield Sample(
            tokens=tensors["tokens"][start:end],
            prompt_length=prompt_length,
            temperature=temperature,
            top_ids=tensors["top_ids"][row : row + rows],
            top_log_probs=tensors["top_log_probs"][row : row + rows],
        )
        start, row = end, row + rows
