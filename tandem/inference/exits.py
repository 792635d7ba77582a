"""Passes through the first layers of a model alone, and what each of its layers would say.

A sequence names the layer at which its tokens leave the model; the final norm and the output layer follow at once. What
it leaves in the cache is right in those layers only, so a sequence knows from where on that is so. Tokens that leave at
different layers are run in passes of their own, one for each layer: transformers' own code runs them all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.inference.capacity import GPU_SHARE
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Chunk, ModelRunner
from tandem.inference.sequence import Sequence
from tandem.inference.table import BlockTable
from tandem.models import UnsupportedModelError
from tandem.selection import argmax

# Layers at which a sequence may leave: each one that is watched costs a row of the output layer for each token.
_MOST_EXITS = 8
# Rows of the output layer that are computed at once.
_ROWS = 128


def exit_layers(depth: int) -> tuple[int, ...]:
    """After how many of `depth` layers a sequence may leave, rising: after any but the last, of many some that lie
    evenly."""
    if depth - 1 <= _MOST_EXITS:
        return tuple(range(1, depth))
    return tuple(round(depth * place / (_MOST_EXITS + 1)) for place in range(1, _MOST_EXITS + 1))


class ExitSequence(Sequence):
    """exits: after how many of `depth` layers its tokens may leave. layers: after how many those that are run next do;
    0 for the last. watch_from: position from which on it is noted, where all layers are run, what each exit says;
    `said` then has by position the likeliest next token at each exit, in their order, until somebody takes it."""

    def __init__(self, table: BlockTable, exits: Seq[int], depth: int, priority: int = 0) -> None:
        super().__init__(table, priority)
        self.exits = exits
        self.depth = depth
        self.layers = 0
        self.watch_from: float = math.inf
        self.said: dict[int, tuple[int, ...]] = {}
        self._shallow_from: float = math.inf

    @property
    def whole(self) -> int:
        """How many leading tokens have their entries in all layers."""
        return int(min(self._shallow_from, self.cached))

    def advance(self, count: int, unconfirmed: int) -> None:
        """Others may find what is there in all layers, nothing else."""
        before = self.cached
        if before <= self._shallow_from:
            self._shallow_from = before if self.layers else math.inf
        whole = min(self._shallow_from, before + count)
        super().advance(count, max(unconfirmed, len(self.tokens) - int(whole)))


class ExitRunner(ModelRunner):
    """As its base; its sequences may leave after some of the layers. exits: after how many; depth: of all."""

    def __init__(
        self, loaded: LoadedModel, *, cache_bytes: int | None = None, gpu_share: float = GPU_SHARE
    ) -> None:
        """Raises UnsupportedModelError, naming the model, also where its layers cannot be left."""
        super().__init__(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
        name = type(self._model).__name__
        layers = getattr(self._model.get_decoder(), "layers", None)
        self.depth: int = self._model.config.get_text_config().num_hidden_layers
        if not isinstance(layers, nn.ModuleList) or len(layers) != self.depth:
            raise UnsupportedModelError(f"{name} cannot be left early: its layers do not lie in one list")
        self.exits = exit_layers(self.depth)
        if not self.exits:
            raise UnsupportedModelError(f"{name} cannot be left early: it has one layer")
        self._layers = layers
        self._whole = self._model
        self._cut = {count: cut_after(self._model, count) for count in (0, *self.exits)}
        self._watched = cut_after(self._model, self.depth)  # whose modules are called, come what may

    def open(self, priority: int = 0) -> ExitSequence:
        return ExitSequence(self.cache.table(), self.exits, self.depth, priority)

    @torch.inference_mode()
    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        by_exit: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            by_exit.setdefault(_own(chunk).layers, []).append(chunk)
        found: dict[int, Tensor] = {}
        before = [(chunk.sequence.table, chunk.sequence.cached) for chunk in chunks]
        try:
            for layers, group in by_exit.items():
                logits = self._run_cut(layers, group) if layers else self._run_whole(group)
                found |= {id(chunk): rows for chunk, rows in zip(group, logits, strict=True)}
        except BaseException:
            for table, length in before:  # of groups that came before the one that failed
                table.truncate(length)
            raise
        finally:
            self._model = self._whole
        return [found[id(chunk)] for chunk in chunks]

    def _run_cut(self, layers: int, chunks: Seq[Chunk]) -> list[Tensor]:
        self._model = self._cut[layers]
        return super().run(chunks)

    def _run_whole(self, chunks: Seq[Chunk]) -> list[Tensor]:
        self._model = self._whole
        wanted = list(_watched(chunks))
        if not wanted:
            return super().run(chunks)
        self._model = self._watched
        with self._kept() as states:
            logits = super().run(chunks)
        rows = torch.tensor([row for *_, row in wanted], device=self.loaded.device)
        said = self._said(torch.stack([states[exit][rows] for exit in self.exits], dim=1))
        for (sequence, position, _), tokens in zip(wanted, said.tolist(), strict=True):
            sequence.said[position] = tuple(tokens)
        return logits

    def _said(self, states: Tensor) -> Tensor:
        """The likeliest token int64 [n, exits] of hidden states [n, exits, D]."""
        rows = [
            argmax(self._cut[0](inputs_embeds=part.unsqueeze(0), use_cache=False).logits[0])
            for part in states.flatten(0, 1).split(_ROWS)
        ]
        return torch.cat(rows).view(states.shape[:2])

    @contextmanager
    def _kept(self) -> Iterator[dict[int, Tensor]]:
        """Hidden states [tokens, D] at each exit of the pass that is made meanwhile."""
        states: dict[int, Tensor] = {}

        def keep(exit: int) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                states[exit] = (output[0] if isinstance(output, tuple) else output)[0]

            return self._layers[exit - 1].register_forward_hook(hook)

        hooks = [keep(exit) for exit in self.exits]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()


def cut_after(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """The model with its first `count` layers alone; it shares all that it has with the other. With none, it makes
    logits of hidden states, given as `inputs_embeds`: some models scale those, which their norm takes back.

    Raises UnsupportedModelError.
    """
    decoder = model.get_decoder()
    names = [name for name, child in model.named_children() if child is decoder]
    if not names:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be left early: its decoder is a part of a part")
    shallow, cut = _copied(decoder), _copied(model)
    _exchange(shallow, "layers", decoder.layers[:count])
    _exchange(cut, names[0], shallow)
    return cut


def _copied(module: Any) -> Any:
    """With a list of its modules that is its own."""
    other = copy.copy(module)
    other.__dict__["_modules"] = dict(module._modules)
    other.__dict__.pop("forward", None)  # a recording of all layers
    return other


def _exchange(module: nn.Module, name: str, child: nn.Module) -> None:
    module._modules[name] = child
    if name in vars(module):  # a quantised model's are found there first
        vars(module)[name] = child


def _own(chunk: Chunk) -> ExitSequence:
    if not isinstance(chunk.sequence, ExitSequence):
        raise TypeError("a sequence of another runner")
    return chunk.sequence


def _watched(chunks: Seq[Chunk]) -> Iterator[tuple[ExitSequence, int, int]]:
    """Sequence, position and row of each token of a pass that is watched."""
    row = 0
    for chunk in chunks:
        sequence = _own(chunk)
        for position in range(sequence.cached, sequence.cached + chunk.count):
            if position >= sequence.watch_from:
                yield sequence, position, row
            row += 1
