"""What every process of a group has: its place and device, torch's process group, a watch, and an end."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from tandem.inference.engine import EngineClosedError
from tandem.inference.parallel.link import Link
from tandem.inference.parallel.place import GroupError, Place
from tandem.inference.parallel.watch import Watch

_log = logging.getLogger(__name__)

#: For all processes to import their modules and to meet.
JOIN_SECONDS = 300.0
# Of torch's own waits. Shards may take long to load, on one machine longer than on another, and while a group is idle
# no collective waits; what is lost is noticed by the watch.
_COLLECTIVE_SECONDS = 3600.0


class GroupLostError(EngineClosedError):
    """A process of the group is gone, and with it the model: what is open must be asked of another replica."""


class Member:
    """What leader and followers have in common."""

    def __init__(self, place: Place, device: torch.device, links: Mapping[str, Mapping[str, Link]]) -> None:
        """links: to each other process, by its name and their purpose."""
        self.place = place
        self.device = device
        self.links = links
        self.watch = Watch({name: each["life"].socket for name, each in links.items()}, _end_at_once)

    def when_lost(self, call: Callable[[str], None]) -> None:
        """Calls `call` with what was lost, on any thread, instead of ending this process at once."""
        self.watch.call(call)

    def check(self) -> None:
        """Raises GroupLostError where a process is gone."""
        if self.watch.lost is not None:
            raise GroupLostError(self.watch.lost)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around what all processes do together. Whatever fails in it is a loss: where the others are is not known, and
        nothing that they have begun can be taken back. Raises GroupLostError."""
        self.check()
        self.watch.busy_since = time.monotonic()
        try:
            yield
        except Exception as error:
            raise GroupLostError(self._failed("a step", error)) from error
        finally:
            self.watch.busy_since = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """As `step`, around what may fail by itself: that is raised as it is, unless a process was lost meanwhile."""
        try:
            yield
        except Exception:
            self.watch.settle()
            raise

    def _failed(self, what: str, error: Exception) -> str:
        own = f"{what} failed on rank {self.place.rank}: {' '.join(str(error).split()) or type(error).__name__}"
        lost = self.watch.fail(own)
        if lost == own:
            _log.error("%s failed", what, exc_info=error)
        return lost

    def init_torch(self, store: dist.Store) -> None:
        """Raises GroupError."""
        if self.place.on_one_machine and self.device.type == "cpu" and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        try:
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo",
                store=dist.PrefixStore("torch", store),
                rank=self.place.rank,
                world_size=self.place.world,
                timeout=timedelta(seconds=_COLLECTIVE_SECONDS),
            )
        except RuntimeError as error:
            raise GroupError(f"the {self.place.world} processes cannot be connected: {line_of(error)}") from error

    def close_links(self) -> None:
        for links in self.links.values():
            for link in links.values():
                link.close()


def own_device(name: str, place: Place) -> torch.device:
    """Of this process. name: `--device`. Raises GroupError."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if ":" in name:
        raise GroupError(f"--device {name}: each process of a group takes the GPU of its own number; use cuda")
    if name == "cpu" and gpus:
        # transformers puts its shards on the accelerator that torch sees.
        raise GroupError("--device cpu: a group takes the GPUs that it sees; hide them with CUDA_VISIBLE_DEVICES=")
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if place.local_world > gpus:
        raise GroupError(
            f"--device {name}: {place.local_world} processes on this machine need a GPU each, and it has {gpus}"
        )
    return torch.device("cuda", place.local_rank)


def rendezvous(place: Place) -> dist.Store:
    """Where processes leave notes for each other: torchrun's own. Raises GroupError."""
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS))))
    except (RuntimeError, ValueError) as error:
        raise GroupError(f"rank {place.rank} cannot meet the others at {place.address}: {line_of(error)}") from error
    # After a restart what was left of the last attempt is still there.
    return dist.PrefixStore(f"tandem/{place.attempt}", store)


def _end_at_once(lost: str) -> None:
    """What is done about a loss where nobody else does anything: no thread is waited for, since one may hang in a
    collective for ever. torchrun, or what started it, then ends or starts again the whole group."""
    _log.error("%s: this process ends", lost)
    leave(1)


def leave(code: int) -> None:
    """Ends this process without waiting for any thread."""
    logging.shutdown()
    os._exit(code)


def line_of(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
