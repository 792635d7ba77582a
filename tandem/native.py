"""What native code writes to stderr itself, past Python: gRPC's core, torch, the C library."""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import re
import sys
import threading
from typing import TextIO

_log = logging.getLogger(__name__)

# How gRPC's and torch's libraries begin a line: severity, date, time, thread, place.
_GLOG = re.compile(r"^\W*(?P<severity>[IWEF])\d{4} [\d:.]+ +\d+ (?P<rest>.*)$")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_LAST_SECONDS = 1.0

_stderr: TextIO | None = None


def native_lines_are_logged() -> TextIO:
    """From now on. Returns what stderr was, which Python goes on writing to. May be called again.

    What a process writes as it crashes may be lost, so Python tells of a crash by itself.
    """
    global _stderr
    if _stderr is None:
        _stderr = real = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        sys.stderr = real
        faulthandler.enable(real)
        thread = threading.Thread(target=_log_all, args=(reader,), name="tandem-native-stderr", daemon=True)
        thread.start()
        atexit.register(_put_back, real, thread)
    return _stderr


def _log_all(reader: int) -> None:
    with os.fdopen(reader, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            if line := line.rstrip():
                level, told = _told(line)
                _log.log(level, "%s", told)


def _told(line: str) -> tuple[int, str]:
    found = _GLOG.match(line)
    if found is None:
        return logging.WARNING, line
    return _LEVELS[found["severity"]], found["rest"]


def _put_back(real: TextIO, thread: threading.Thread) -> None:
    """Ends the pipe, and waits for what is in it."""
    os.dup2(real.fileno(), 2)
    thread.join(_LAST_SECONDS)
