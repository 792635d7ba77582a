"""A model that computes really, and lets nobody know before the device elsewhere would have been done."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from bench.overlap.device import Device
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Chunk, ModelRunner


class PacedRunner(ModelRunner):
    """Of what can be had in time: a step that takes the processor longer than the device is late, and counted there."""

    def __init__(self, loaded: LoadedModel, device: Device, *, cache_bytes: int | None = None) -> None:
        super().__init__(loaded, cache_bytes=cache_bytes)
        self._device = device

    @torch.inference_mode()
    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        done = self._device.begin(sum(chunk.count for chunk in chunks))
        logits = super().run(chunks)
        self._device.wait(done)
        return logits
