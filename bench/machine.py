"""What a figure was measured on."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def describe_machine() -> str:
    """One line: processor, cores, libraries, commit."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "grpcio"))
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores; {libraries}; commit {commit()}"


def keep_freed_memory() -> None:
    """Makes the C library keep what this process frees, where it is glibc.

    It gives large blocks back otherwise, or does not, by what happens to lie behind them: a transformers step over a
    padded batch, which copies its whole cache, then spends up to two thirds of its time on page faults in one run and
    none in another. Without them, both sides are measured at their best.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(parameter, 1 << 30)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def commit() -> str:
    """Of the checkout, with `-dirty` where it was changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
