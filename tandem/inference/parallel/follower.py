"""The other ranks: each loads its shards and runs the leader's steps, until it says that there are no more."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from typing import Any

import torch

from tandem import heap
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.capacity import GPU_SHARE
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model
from tandem.inference.parallel.capacity import agreed_blocks
from tandem.inference.parallel.group import Follower
from tandem.inference.parallel.member import GroupLostError
from tandem.inference.parallel.message import StepMessage
from tandem.inference.parallel.place import Place
from tandem.inference.parallel.start import join
from tandem.inference.runner import ModelRunner
from tandem.inference.step import Step
from tandem.inference.threads import compute_with, leave_threads_to_engine
from tandem.models import resolve

_log = logging.getLogger(__name__)


class FollowerRunner(ModelRunner):
    """Runs the steps of a leader, which has the tables of all sequences."""

    def __init__(
        self, loaded: LoadedModel, group: Follower, *, cache_bytes: int | None = None, gpu_share: float = GPU_SHARE
    ) -> None:
        """As ModelRunner. Raises GroupError too."""
        self._group = group
        super().__init__(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)

    @torch.inference_mode()
    def follow(self) -> None:
        """Runs steps until there are no more. Raises GroupLostError."""
        while data := self._group.receive():
            with self._group.step():
                self._take(StepMessage.decode(data))

    def _take(self, message: StepMessage) -> None:
        for source, target, count in message.copies:
            if count:
                self.cache._copy(source, target, count)
            else:
                self.cache._move([source], [target])
        step = Step(self.cache, [(part, part.count, part.tree) for part in message.parts])  # type: ignore[misc]
        self._run(message.tokens, message.positions, message.wanted, step)

    def _make_cache(self, shape: EntryShape, cache_bytes: int | None, gpu_share: float) -> KeyValueCache:
        blocks = agreed_blocks(self._group, shape, cache_bytes=cache_bytes, gpu_share=gpu_share)
        return KeyValueCache(shape, blocks, self.loaded.device)


def follow(place: Place, name: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """Takes part in the group of `place` until its leader ends it; returns then.

    name, revision, options: as `load_engine`'s, of which those of the engine are the leader's matter. Where the leader
    is lost, the process ends. Raises ModelError.
    """
    kind = {"dtype": options["dtype"], "weights": options["weights"]}
    compute_with(leave_threads_to_engine(options["threads"]))
    folder = resolve(name, revision)
    group = join(place, folder, device=options["device"], **kind)
    # The leader says when to end, after the streams that are open; torchrun signals all processes at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with group.loading():
        loaded = load_model(folder, device=str(group.device), shards=place.world, **kind)
        runner = FollowerRunner(loaded, group, cache_bytes=options["cache_bytes"], gpu_share=options["gpu_share"])
    _log.info("rank %d of %d follows rank 0 on %s", place.rank, place.world, group.device)
    heap.settle()
    try:
        runner.follow()
    except GroupLostError as error:
        raise SystemExit(1) from error  # where the watch has not ended the process yet
    group.close()
    _log.info("rank %d stopped", place.rank)
