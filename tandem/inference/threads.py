"""CPU threads of the model of this process."""

from __future__ import annotations

import torch

# OpenMP's own choice, before anything has changed it: OMP_NUM_THREADS, or all cores.
_DEFAULT = torch.get_num_threads()


def leave_threads_to_engine(threads: int | None) -> int:
    """How many threads an engine is to compute with: `threads`, or OpenMP's choice. All others compute with one.

    Every thread that computes in parallel has threads of its own, which wait for its next operation. GNU's OpenMP lets
    them spin, so that they begin at once, only while there are no more of them than cores; with a second such pool in
    the process all sleep instead, and a step of a small model takes twice as long, longer than with one thread.
    """
    torch.set_num_threads(1)
    return threads or _DEFAULT


def compute_with(threads: int) -> None:
    """Makes the calling thread compute with so many."""
    torch.set_num_threads(threads)
    torch.get_num_threads()  # a thread that has asked keeps its number when another one sets its own
