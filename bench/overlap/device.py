"""A device elsewhere: what is run on it takes a set time, in which the processor is free."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

# Linux: by how much a sleep may be late, in nanoseconds; 50 us if nobody asks.
_SET_TIMER_SLACK = 29


class Device:
    """One step at a time. steps, late: how many were waited for, and those that the processor was later with than the
    device would have been."""

    def __init__(self, milliseconds: Callable[[int], float]) -> None:
        """milliseconds: of a step, by its positions."""
        self._milliseconds = milliseconds
        self._is_precise = False
        self.steps = self.late = 0

    def begin(self, positions: int) -> float:
        """When a step that begins now ends, of `time.perf_counter`."""
        return time.perf_counter() + self._milliseconds(positions) / 1e3

    def wait(self, until: float) -> None:
        if not self._is_precise:
            self._is_precise = True
            sleep_precisely()
        self.steps += 1
        if (left := until - time.perf_counter()) > 0:
            time.sleep(left)
        else:
            self.late += 1


def sleep_precisely() -> None:
    """Lets the calling thread's sleeps end in time, where the system knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)
