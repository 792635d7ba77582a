"""The other side of every comparison: transformers' own forward pass and cache, used as its `generate` uses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Peer:
    """One model with its SDPA attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.set_attn_implementation("sdpa")
        self._model = model

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int]) -> DynamicCache:
        """The cache of one prompt."""
        cache = DynamicCache()
        self._model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], count: int, ends: frozenset[int]) -> list[int]:
        """Up to `count` tokens; one of `ends` is the last."""
        cache, feed, tokens = DynamicCache(), torch.tensor([prompt]), list[int]()
        while len(tokens) < count and not ends.intersection(tokens[-1:]):
            output = self._model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            feed = output.logits[:, -1:].argmax(-1)
            tokens.append(int(feed))
        return tokens


class PeerBatch:
    """Sequences side by side. The shorter ones are padded on the left, and a mask says so."""

    @torch.inference_mode()
    def __init__(self, peer: Peer, caches: Sequence[DynamicCache], lengths: Sequence[int], room: int) -> None:
        """caches: of single sequences, with at least as many entries as `lengths` says to take. room: most tokens
        to append."""
        self._model = peer._model
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
