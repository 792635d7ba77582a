"""The other side of every comparison: transformers' own forward pass and cache, used as its `generate` uses them."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

# Batches that are kept, since sides of one comparison take turns.
_BATCHES = 2


class Peer:
    """One model with its SDPA attention, and what it has run: texts in front of what is measured are run once."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.set_attn_implementation("sdpa")
        self._model = model
        self._caches: dict[tuple[int, ...], DynamicCache] = {}
        self._batches: OrderedDict[object, PeerBatch] = OrderedDict()

    def steps(
        self, texts: Sequence[Sequence[int]], lengths: Sequence[int], blocks: Sequence[Sequence[int]], count: int
    ) -> tuple[float, list[list[int]]]:
        """Median seconds of `count` steps, and the tokens that the last one took for each sequence.

        A step appends each block to the first tokens of each text, as many as `lengths` says.
        """
        batch, seconds, tokens = self._batch(texts, lengths, len(blocks[0])), [], []
        feed = torch.tensor(blocks)
        for _ in range(count + 1):
            began = time.perf_counter()
            batch.rewind()
            tokens = batch.step(feed).tolist()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[1:]), tokens  # nor does the engine's first one count

    def decode(self, texts: Sequence[Sequence[int]], lengths: Sequence[int], tokens: int) -> float:
        """Tokens per second of all texts together, each decoding so many."""
        batch = self._batch(texts, lengths, tokens + 1)
        batch.rewind()
        feed = batch.step(torch.arange(len(texts))[:, None])  # nor does the engine's first one count
        began = time.perf_counter()
        for _ in range(tokens):
            feed = batch.step(feed)
        return len(texts) * tokens / (time.perf_counter() - began)

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], count: int, ends: frozenset[int]) -> list[int]:
        """Up to `count` tokens; one of `ends` is the last."""
        cache, feed, tokens = DynamicCache(), torch.tensor([prompt]), list[int]()
        while len(tokens) < count and not ends.intersection(tokens[-1:]):
            output = self._model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            feed = output.logits[:, -1:].argmax(-1)
            tokens.append(int(feed))
        return tokens

    def _batch(self, texts: Sequence[Sequence[int]], lengths: Sequence[int], room: int) -> PeerBatch:
        key = tuple(map(tuple, texts)), tuple(lengths), room
        if key not in self._batches:
            while len(self._batches) >= _BATCHES:
                self._batches.popitem(last=False)
            caches = [self._cache(tuple(text), max(lengths)) for text in texts]
            self._batches[key] = PeerBatch(self._model, caches, lengths, room)
        return self._batches[key]

    @torch.inference_mode()
    def _cache(self, text: tuple[int, ...], length: int) -> DynamicCache:
        """Of at least the first `length` tokens."""
        cache = self._caches.get(text)
        if cache is None or cache.get_seq_length() < length:
            cache = self._caches[text] = DynamicCache()
            tokens = torch.tensor([text[:length]])
            self._model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache


class PeerBatch:
    """Sequences side by side. The shorter ones are padded on the left, and a mask says so."""

    @torch.inference_mode()
    def __init__(
        self, model: PreTrainedModel, caches: Sequence[DynamicCache], lengths: Sequence[int], room: int
    ) -> None:
        """caches: of single sequences, with at least as many entries as `lengths` says to take. room: most tokens
        to append."""
        self._model = model
        self._longest = max(lengths)
        self._cache = DynamicCache()
        for layer, _ in enumerate(caches[0].layers):
            keys, values = (
                torch.cat([_padded(getattr(cache.layers[layer], name), length, self._longest)
                           for cache, length in zip(caches, lengths, strict=True)])
                for name in ("keys", "values")
            )  # fmt: skip
            self._cache.update(keys, values, layer)
        # A batch of one needs no mask. What does not change from step to step is made here, not in the steps.
        self._mask: Tensor | None = None
        self._positions: Tensor | None = None
        if len(lengths) > 1:
            columns = torch.arange(self._longest + room)
            self._mask = (columns >= torch.tensor([self._longest - length for length in lengths])[:, None]).long()
        if min(lengths) < self._longest:
            self._positions = torch.tensor(lengths)[:, None] + torch.arange(room)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """tokens [batch, n] -> the likeliest token after each, [batch, n]; appends to the cache."""
        start = self._cache.get_seq_length()
        stop, done = start + tokens.shape[1], start - self._longest
        logits = self._model(
            input_ids=tokens,
            past_key_values=self._cache,
            use_cache=True,
            attention_mask=None if self._mask is None else self._mask[:, :stop],
            position_ids=None if self._positions is None else self._positions[:, done : stop - self._longest],
        ).logits
        return logits.argmax(-1)

    def rewind(self) -> None:
        """Cuts the cache back to where it began."""
        self._cache.crop(self._longest - self._cache.get_seq_length())


def _padded(entries: Tensor, length: int, longest: int) -> Tensor:
    """entries [1, heads, n, dim] -> the first `length` of them behind zeros, [1, heads, longest, dim]."""
    padding = entries.new_zeros(*entries.shape[:2], longest - length, entries.shape[3])
    return torch.cat([padding, entries[:, :, :length]], dim=2)
