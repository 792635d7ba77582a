"""Turns on a CPU whose cores several services share: their steps run one after the other, not against each other.

Two steps at once on the same cores take longer than one after the other: threads of one wait at its barriers for what
the other's have displaced. And steps in turn meet: while the target computes for all of its sessions, their drafts
wait; while the draft makes the blocks of all of them, the target waits, and verifies them in one step.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from pathlib import Path

_log = logging.getLogger(__name__)

# Between two looks at whether the turn is free; a step takes a hundred times as long.
_LOOK_SECONDS = 0.0003
# Most time to wait for a turn: a service that hangs, or that was stopped in its own, must not stop the others.
_PATIENCE_SECONDS = 2.0
# Most time to keep a turn from step to step.
_KEEP_SECONDS = 0.5


class Turns:
    """One service's side. Locks of files: what ends, however it ends, gives its turn back.

    Whoever waits holds the place in front of the door, so that nobody who just had a turn takes the next one before.
    """

    def __init__(self, path: Path, *, keeps: bool) -> None:
        """path: a file that services of one machine share, made where there is none; another one beside it is for
        waiting. keeps: a turn lasts for as long as there is work, not for one step. Raises OSError."""
        self._keeps = keeps
        self._door = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._place = os.open(path.with_name(f"{path.name}.next"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Not the process's number: in containers that share the file all may be number 1.
        self._name = secrets.token_hex(16).encode()
        self._since: float | None = None  # when the turn began, while it lasts
        self._waits = True

    def begin(self) -> bool:
        """Returns with the turn, at once where it has lasted since the last step; whether another has had it meanwhile.

        After two seconds in vain it returns without, and does not wait again before the turn has been free.
        """
        if self._since is not None:
            return False
        began = time.monotonic()
        free = self._take(self._place, began) and self._take(self._door, began)
        fcntl.flock(self._place, fcntl.LOCK_UN)
        if free:
            self._since = time.monotonic()
            return self._is_another_than_before()
        if self._waits:
            _log.warning("a service that shares this one's cores keeps its turn for %g s; going on", _PATIENCE_SECONDS)
        self._waits = False
        return True

    def _is_another_than_before(self) -> bool:
        """Leaves its name behind the door."""
        self._waits = True
        if os.pread(self._door, len(self._name), 0) == self._name:
            return False
        os.pwrite(self._door, self._name, 0)
        return True

    def end(self, *, more: bool) -> None:
        """After a step. more: there is work for another."""
        if self._since is None:
            return
        if more and self._keeps and time.monotonic() - self._since < _KEEP_SECONDS:
            return
        self._since = None
        fcntl.flock(self._door, fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives back what it has."""
        for lock in (self._door, self._place):
            os.close(lock)

    def _take(self, lock: int, began: float) -> bool:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if not self._waits or time.monotonic() - began > _PATIENCE_SECONDS:
                    return False
                time.sleep(_LOOK_SECONDS)
