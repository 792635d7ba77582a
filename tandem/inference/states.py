"""Hidden states behind a model's final norm, which its output layer reads: what a draft is fed with that continues them
(features of EAGLE, arXiv 2401.15077)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.inference.replay import modules_run
from tandem.inference.sequence import Sequence

# What is beyond it has no float16; states behind a norm are far below.
_MOST = 65504.0


@dataclass(frozen=True, slots=True)
class Features:
    """Of which kind a model's states are. width: numbers of one. family: the architecture, as configs name it."""

    width: int
    family: str


def features_of(model: PreTrainedModel) -> Features | None:
    """None for a model whose states are not found."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        return None
    config = model.config.get_text_config()
    if not getattr(config, "hidden_size", 0):
        return None
    return Features(config.hidden_size, config.model_type)


class Fed(Protocol):
    """Tokens of a sequence in a pass: see `runner.Chunk`."""

    @property
    def sequence(self) -> Sequence: ...

    @property
    def count(self) -> int: ...


def states_noted(model: PreTrainedModel, chunks: Seq[Fed]) -> AbstractContextManager[object]:
    """For one pass over the chunks, in their order: each sequence gets its states that it wants."""
    if all(chunk.sequence.states_from == math.inf for chunk in chunks):
        return contextlib.nullcontext()
    return _noted(model, chunks)


@contextmanager
def _noted(model: PreTrainedModel, chunks: Seq[Fed]) -> Iterator[None]:
    found: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output[0][0])

    hook = model.get_decoder().register_forward_hook(note)
    try:
        with modules_run(model):
            yield
    finally:
        hook.remove()
    [states], row = found, 0
    for chunk in chunks:
        sequence, past = chunk.sequence, chunk.sequence.cached
        first = max(0, sequence.states_from - past)
        if first < chunk.count:
            rows = states[row + int(first) : row + chunk.count].clone()  # a view would keep those of the whole pass
            sequence.states |= dict(enumerate(rows, past + int(first)))
        row += chunk.count


def take_states(sequences: Seq[tuple[Sequence, int]]) -> list[Tensor | None]:
    """Of each sequence the states that were noted of its first so many tokens: the last ones of these, without a gap,
    as float16 [n, H] on the host, all by one transfer; None where none are wanted. They are taken."""
    rows = [_last_run(sequence, length) for sequence, length in sequences]
    there = [row for own in rows for row in own]
    host = iter(torch.stack(there).float().clamp(-_MOST, _MOST).half().cpu() if there else ())
    return [torch.stack([next(host) for _ in own]) if own else None for own in rows]


def _last_run(sequence: Sequence, length: int) -> list[Tensor]:
    noted, sequence.states = sequence.states, {}
    start = length
    while start - 1 in noted:
        start -= 1
    return [noted[place] for place in range(start, length)]
