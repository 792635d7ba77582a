"""Files that are read again when they change, without a restart: certificates, API keys."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: What tells one content of a file from the next; None where there is no file.
_Stamp = tuple[int, int, int] | None


class Watched(Generic[T]):
    """What `read` makes of some files, as they are now.

    Whoever asks looks at the files first: some microseconds for each, and no task or thread that would have to be
    ended. A file has changed where its time, size or inode has; links are followed, so that a link that leads
    elsewhere counts too (Kubernetes exchanges mounted secrets so). New files that cannot be used leave in force what
    was there, and are logged once. Any thread may ask.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], T], *, what: str) -> None:
        """read: raises OSError or ValueError for files that cannot be used, and so does this. what: in logs."""
        self._files = tuple(files)
        self._read = read
        self._what = what
        self._lock = threading.Lock()
        self._stamps = self._look()  # before reading, so that a change in between is seen by the next `get`
        self._value = read()

    def get(self) -> T:
        """The same object as before where nothing has changed."""
        with self._lock:
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._renew()
            return self._value

    def _renew(self) -> None:
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            _log.error("%s: what was read before stays in force, the new files cannot be used: %s", self._what, error)
        else:
            _log.info("%s: read again", self._what)

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> _Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
