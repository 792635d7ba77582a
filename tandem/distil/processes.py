"""One process, or several with a GPU each: as torchrun or `accelerate launch` started them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from tandem.models import ModelError

#: One process may wait for another while that one generates or measures.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Processes:
    """rank: of this one, of `count`. device: its own."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Its gradients become the mean over all processes."""
        if self.count == 1:
            return module
        ids = [self.device.index or 0] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            numbers = numbers.to(self.device)
            torch.distributed.all_reduce(numbers)
        return numbers

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any of them says so."""
        if self.count == 1:
            return list(flags)
        return [count > 0 for count in self.total(torch.tensor(flags, dtype=torch.int32)).tolist()]

    def wait(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """This process, with those that were started with it. device: `auto` (CUDA where there is one), `cpu`, `cuda` or
    `cuda:N`; of several processes each has the GPU of its number. Raises ModelError for a device that there is not."""
    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {device}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    # Without it products differ from run to run on a GPU; read when one is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        yield Processes(0, 1, torch.device(name))
        return
    from accelerate import PartialState

    # Left to itself without a GPU, it makes no group, and each process takes itself for the first one.
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=_PATIENCE)
    try:
        yield Processes(state.process_index, state.num_processes, torch.device(state.device))
    finally:
        state.destroy_process_group()
