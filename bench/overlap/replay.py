"""A model that says what was recorded, on a device that takes a set time for each step and none of the processor's.

All around it is real: the engine, its scheduler and its cache's bookkeeping, sampling, verification, the services.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as Seq
from typing import Any, cast

import torch
from torch import Tensor

from bench.overlap.device import Device
from bench.overlap.recording import CLASSES, FILLER, PROMPT_LENGTH, Recording, Row
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Chunk, ModelRunner

VOCABULARY = CLASSES + 1
_CONTEXT = 4096
_BLOCKS = 8192
# What the draft says off the recording: mostly the filler, and as unsure of it as it usually is.
_OFF = Row([FILLER, 0, 1, 2, 3], [-0.2877, -2.7726, -2.7726, -2.7726, -2.7726], 1.0)


class Lines:
    """Where prefixes stand in a recording, and a number for each place."""

    def __init__(self, recording: Recording) -> None:
        self._texts = recording.texts
        self._numbers: dict[tuple[int, int, int], int] = {}
        for index, text in enumerate(recording.texts):
            for kept in range(len(text.rows)):
                self._numbers[index, kept, 0] = len(self._numbers) + 1
            for kept, turn in text.tails.items():
                for tail in range(1, 1 + len(turn.rows)):
                    self._numbers[index, kept, tail] = len(self._numbers) + 1

    def places(self) -> dict[tuple[int, int, int], int]:
        """Text, tokens of it, and tokens of the draft's own behind them, by number from 1; 0 is off the recording."""
        return self._numbers

    def find(self, tokens: Seq[int], first: int) -> list[int]:
        """The numbers of the prefixes of `tokens` of `first` tokens, of one more and so on up to all of them. tokens:
        the prompt's included."""
        index = tokens[0]
        if index >= len(self._texts):
            return [0] * (len(tokens) - first + 1)
        text, said = self._texts[index].tokens, tokens[PROMPT_LENGTH:]
        common = min(len(said), len(text))
        if said[:common] != text[:common]:  # most of the time all of it is the text
            common = bisect_left(range(common), True, key=lambda count: said[: count + 1] != text[: count + 1])
        turn = self._texts[index].tails.get(common)
        own = turn.tokens if turn is not None else ()
        found = []
        for length in range(first - PROMPT_LENGTH, len(tokens) - PROMPT_LENGTH + 1):
            tail = max(0, length - common)
            known = length >= 0 and list(own[:tail]) == said[common : common + tail]
            found.append(self._numbers.get((index, length - tail, tail), 0) if known else 0)
        return found


def draft_rows(recording: Recording, lines: Lines) -> Tensor:
    """Logits by the number of the place: fp32 [places + 1, VOCABULARY]."""
    places = lines.places()
    logits = torch.full((len(places) + 1, VOCABULARY), -torch.inf)
    _write(logits[0], _OFF)
    for (index, kept, tail), number in places.items():
        row = recording.texts[index].row(kept, tail)
        assert row is not None
        _write(logits[number], row)
    return logits


def target_rows(recording: Recording, lines: Lines) -> Tensor:
    """As `draft_rows`: of the target nothing is known but what it says. Off its text that is the filler."""
    places = lines.places()
    logits = torch.full((len(places) + 1, VOCABULARY), -torch.inf)
    said = torch.full((len(places) + 1,), FILLER)
    for (index, kept, tail), number in places.items():
        text = recording.texts[index]
        if not tail and kept < len(text.tokens):
            said[number] = text.tokens[kept]
    return logits.scatter_(1, said.unsqueeze(1), 0.0)


def _write(logits: Tensor, row: Row) -> None:
    logits[list(row.tokens)] = torch.tensor(row.log_probabilities)


class _NoModel:
    """There is nothing behind the logits."""

    def get_decoder(self) -> None:
        return None


class ReplayRunner(ModelRunner):
    """In the model's place. Sequences begin with a text's index, PROMPT_LENGTH times."""

    def __init__(self, rows: Tensor, lines: Lines, device: Device) -> None:
        """rows: logits by the number of the place."""
        self.loaded = LoadedModel(
            model=cast(Any, _NoModel()), vocabulary_size=VOCABULARY, context_length=_CONTEXT, dtype="float32",
            parameter_count=0, end_token_ids=(), device=torch.device("cpu"),
        )  # fmt: skip
        self._embeddings = VOCABULARY
        self.cache = KeyValueCache(EntryShape(1, 1, 1, 1, torch.float32), _BLOCKS, self.loaded.device)
        self._logits = rows
        self._lines = lines
        self._device = device

    @torch.inference_mode()
    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        """As the model's, and returns when the device would have been done."""
        done = self._device.begin(sum(chunk.count for chunk in chunks))
        numbers: list[int] = []
        for chunk in chunks:
            chunk.sequence.table.reserve(chunk.count)
            if chunk.logits_rows:
                end = chunk.sequence.cached + chunk.count
                numbers += self._lines.find(chunk.sequence.tokens[:end], end - chunk.logits_rows + 1)
        logits = self._logits[torch.tensor(numbers, dtype=torch.long)]
        for chunk in chunks:
            chunk.sequence.advance(chunk.count, unconfirmed=max(0, chunk.logits_rows - 1))
        self._device.wait(done)
        return list(logits.split([chunk.logits_rows for chunk in chunks]))
