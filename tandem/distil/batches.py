"""The order in which answers are learnt from, and the tensors of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tandem.distil.shards import Sample

#: Batches whose sequences are sorted by length together: more waste less padding, fewer mix better.
_SORTED_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens: int64 [B, T], padded at the right. places: int64 [N], in the flattened batch, of the tokens before which
    lies all that an answer's token follows from. answers: int64 [N], the tokens that follow. top_ids: int32 [N, K];
    top_log_probs: fp16 [N, K], nats. counts: tokens of each answer, of `places` in order."""

    tokens: Tensor
    places: Tensor
    answers: Tensor
    top_ids: Tensor
    top_log_probs: Tensor
    counts: list[int]

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        names = ("tokens", "places", "answers", "top_ids", "top_log_probs")
        moved = {name: getattr(self, name).pin_memory().to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


def collate(samples: Sequence[Sample]) -> Batch:
    """At least one sample; all have the same K."""
    longest = max(len(sample.tokens) for sample in samples)
    tokens = torch.zeros(len(samples), longest, dtype=torch.int64)
    places = []
    for row, sample in enumerate(samples):
        length = len(sample.tokens)
        tokens[row, :length] = sample.tokens
        places.append(torch.arange(sample.prompt_length - 1, length - 1) + row * longest)
    return Batch(
        tokens=tokens,
        places=torch.cat(places),
        answers=torch.cat([sample.answer for sample in samples]).long(),
        top_ids=torch.cat([sample.top_ids for sample in samples]),
        top_log_probs=torch.cat([sample.top_log_probs for sample in samples]),
        counts=[len(sample.answer) for sample in samples],
    )


def plan(lengths: Sequence[int], *, seed: int, epochs: float, batch_tokens: int) -> list[list[int]]:
    """The sequences of each step of a training: passes over all of them, each in an order of its own.

    lengths: of the sequences, prompts with them. batch_tokens: of a step, padding with them, unless one sequence alone
    has more. Sequences of a step are of similar length.
    """
    steps: list[list[int]] = []
    whole = int(epochs)
    for epoch in range(whole + (epochs > whole)):
        order = np.random.default_rng((seed, epoch))
        batches = _epoch(np.asarray(lengths), order, batch_tokens)
        if epoch == whole:
            batches = batches[: max(round(len(batches) * (epochs - whole)), 1)]
        steps += batches
    return steps


def _epoch(lengths: np.ndarray, order: np.random.Generator, batch_tokens: int) -> list[list[int]]:
    shuffled = order.permutation(len(lengths))
    together = max(_SORTED_TOGETHER * batch_tokens // int(lengths.mean()), 1)
    batches = []
    for start in range(0, len(shuffled), together):
        group = shuffled[start : start + together]
        batches += in_batches(group[np.argsort(lengths[group], kind="stable")].tolist(), lengths, batch_tokens)
    return [batches[index] for index in order.permutation(len(batches))]


def in_batches(sequences: Sequence[int], lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[list[int]]:
    """In the order given, as many to a batch as fit."""
    batches: list[list[int]] = []
    longest = 0
    for sequence in sequences:
        longest = max(longest, int(lengths[sequence]))
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
            longest = int(lengths[sequence])
    return batches


def prefetched(samples: Sequence[Sample], batches: Sequence[Sequence[int]], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; for a GPU each next one is put together while it works on the one before."""

    def get(batch: Sequence[int]) -> Batch:
        return collate([samples[index] for index in batch]).to(device)

    if device.type == "cpu":  # which has no core to spare
        yield from map(get, batches)
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for batch in batches:
            now, ahead = ahead, pool.submit(get, batch)
            if now is not None:
                yield now.result()
        if ahead is not None:
            yield ahead.result()
