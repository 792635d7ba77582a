"""CPU threads of the models of this process."""

from __future__ import annotations

import torch


def configure_threads(threads: int | None) -> None:
    """Bounds the CPU threads of this process's models; None leaves torch's choice (OMP_NUM_THREADS, or all cores).

    Threads that wait must not spin where services share cores: OMP_WAIT_POLICY=PASSIVE has to be in the environment
    before torch is imported, since OpenMP reads it once, when it is loaded. Three spinning two-thread processes on
    two cores take 3 to 10 times as long for a step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
