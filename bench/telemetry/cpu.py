"""CPU time of processes, as the system counts it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Fields of /proc/PID/stat behind the name of the program, which may hold anything but ends with the last bracket.
_USER, _SYSTEM = 11, 12


def machine_seconds() -> float | None:
    """Time that all processors of the machine have spent on anything since it began; None where there is no /proc."""
    try:
        user, nice, system, _, _, interrupts, soft, *_ = Path("/proc/stat").read_text().split()[1:]
    except (OSError, ValueError):
        return None
    return sum(map(int, (user, nice, system, interrupts, soft))) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(process_ids: Sequence[int]) -> float | None:
    """User and system time of all threads of these processes since they began; None where there is no /proc."""
    ticks = 0
    for process_id in process_ids:
        try:
            fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        ticks += int(fields[_USER]) + int(fields[_SYSTEM])
    return ticks / os.sysconf("SC_CLK_TCK")
