"""The answers that a draft learns from, and those that it is measured on and never learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.distil.shards import Sample, read_shard


class DataError(ValueError):
    """There is nothing to learn from; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Split:
    """train: in the order of the shards. held_out: in the order of their prompts' hashes."""

    train: list[Sample]
    held_out: list[Sample]


def read_samples(paths: Sequence[Path]) -> list[Sample]:
    """All of some shards. They stay in the files until they are looked at. Raises ShardError."""
    return [sample for path in paths for sample in read_shard(path)]


def split(samples: Sequence[Sample], held_out: float) -> Split:
    """Holds out what has one of the last prompts by their hashes, about this share of all.

    All answers to a prompt are on one side, and stay there when there are more. At least one is held out. Raises
    DataError where that leaves none.
    """
    usable = [sample for sample in samples if len(sample.answer)]
    hashes = [_hash(sample) for sample in usable]
    least = min((1 - held_out), max(hashes, default=0.0))
    held = [index for index, number in enumerate(hashes) if number >= least]
    aside = set(held)
    train = [sample for index, sample in enumerate(usable) if index not in aside]
    if not train:
        raise DataError(f"{len(usable)} answers are too few to learn from; raise data.tokens")
    return Split(train, [usable[index] for index in sorted(held, key=hashes.__getitem__)])


def part(samples: Sequence[Sample], share: float) -> list[Sample]:
    """The first ones, with this share of all answers' tokens; at least one."""
    wanted = share * count_tokens(samples)
    taken: list[Sample] = []
    tokens = 0
    for sample in samples:
        if taken and tokens + len(sample.answer) > wanted:
            break
        taken.append(sample)
        tokens += len(sample.answer)
    return taken


def count_tokens(samples: Sequence[Sample]) -> int:
    """Of the answers."""
    return sum(len(sample.answer) for sample in samples)


def _hash(sample: Sample) -> float:
    """In [0, 1), of the prompt alone."""
    digest = hashlib.sha256(sample.tokens[: sample.prompt_length].numpy().tobytes()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
