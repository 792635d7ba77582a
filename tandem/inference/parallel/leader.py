"""The runner of rank 0: as that of one process, and tells the others each step before it runs it."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.capacity import GPU_SHARE
from tandem.inference.loaded import LoadedModel
from tandem.inference.parallel.capacity import agreed_blocks
from tandem.inference.parallel.group import Leader
from tandem.inference.parallel.message import StepMessage
from tandem.inference.runner import Chunk, ModelRunner
from tandem.inference.step import Step


class LeaderCache(KeyValueCache):
    """The leader's part of a cache. copies: of blocks and entries, see `StepMessage`, that the followers have not been
    told yet; nobody reads theirs before the next step."""

    def __init__(self, shape: EntryShape, blocks: int, device: torch.device) -> None:
        super().__init__(shape, blocks, device)
        self.copies: list[tuple[int, int, int]] = []

    def _copy(self, source: int, target: int, count: int) -> None:
        super()._copy(source, target, count)
        self.copies.append((source, target, count))

    def _move(self, sources: Seq[int], targets: Seq[int]) -> None:
        super()._move(sources, targets)
        # They move up, in order: one after the other is the same.
        self.copies += [(source, target, 0) for source, target in zip(sources, targets, strict=True)]


class LeaderRunner(ModelRunner):
    """Runs a model together with the followers of a group, and belongs to one thread."""

    cache: LeaderCache

    def __init__(
        self, loaded: LoadedModel, group: Leader, *, cache_bytes: int | None = None, gpu_share: float = GPU_SHARE
    ) -> None:
        """As ModelRunner; cache_bytes and gpu_share are of each process. Raises GroupError too."""
        self._group = group
        self._followers_listen = False
        super().__init__(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
        self._followers_listen = True

    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        """As ModelRunner. Raises GroupLostError, after which nothing can be run any more."""
        self._group.check()
        return super().run(chunks)

    def _make_cache(self, shape: EntryShape, cache_bytes: int | None, gpu_share: float) -> KeyValueCache:
        blocks = agreed_blocks(self._group, shape, cache_bytes=cache_bytes, gpu_share=gpu_share)
        return LeaderCache(shape, blocks, self.loaded.device)

    def _run(self, tokens: Seq[int], positions: Seq[int], wanted: Seq[int], step: Step) -> Tensor:
        if not self._followers_listen:  # all try two tokens by themselves
            return super()._run(tokens, positions, wanted, step)
        copies, self.cache.copies = self.cache.copies, []
        message = StepMessage.of(tokens, wanted, step.parts, copies).encode()
        with self._group.step():
            self._group.send(message)
            if self.loaded.device.type == "cpu":
                return super()._run(tokens, positions, wanted, step)
            with torch.cuda.device(self.loaded.device):
                logits = super()._run(tokens, positions, wanted, step)
                torch.cuda.current_stream().synchronize()  # what hangs or fails is to do so in here
                return logits

