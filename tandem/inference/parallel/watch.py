"""Signs of life: notices within seconds that a process of the group has ended, hangs, or cannot be reached.

A collective would notice some of this, but not while the group is idle, and NCCL's not for minutes.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

#: Between two signs of life.
_BEAT_SECONDS = 1.0
#: Of silence, after which a process counts as lost: its machine has vanished, or it stands still.
_SILENCE_SECONDS = 15.0
#: That a step may take. Even the first ones of a large model take a few seconds.
_STEP_SECONDS = 120.0
#: Where a collective has failed: time to learn which process was lost, which is the better thing to say.
_SETTLE_SECONDS = 1.0


class Watch:
    """Watches connections to other processes, and the one that started this one, on a thread of its own.

    lost: what the group lost, once it has lost something. busy_since: when the step under way began.
    """

    def __init__(self, peers: Mapping[str, socket.socket], when_lost: Callable[[str], None]) -> None:
        """peers: by name, as `rank 1`. when_lost: called once, on any thread."""
        self.lost: str | None = None
        self.busy_since: float | None = None
        self._is_strict = False
        self._peers = dict(peers)
        self._when_lost = when_lost
        self._dismissed = False
        self._lock = threading.Lock()
        self._has_lost = threading.Event()
        self._parent = os.getppid()
        threading.Thread(target=self._run, name="tandem-watch", daemon=True).start()

    def call(self, when_lost: Callable[[str], None]) -> None:
        """Calls another one from now on; at once where something has been lost already."""
        with self._lock:
            self._when_lost = when_lost
            lost = self.lost
        if lost is not None:
            when_lost(lost)

    def be_strict(self) -> None:
        """From now on what hangs counts as lost; while models are loaded it does not, since that can hold up all
        threads of a process."""
        self._is_strict = True

    def dismiss(self) -> None:
        """What happens from now on is no loss: the group ends in order."""
        self._dismissed = True

    def settle(self) -> None:
        """Something failed: waits a second for what may become known of the others."""
        self._has_lost.wait(_SETTLE_SECONDS)

    def fail(self, reason: str) -> str:
        """Something failed that needs all of the group. Returns what was lost: `reason`, where it becomes known of no
        process within a second that it is gone."""
        self.settle()
        self._lose(reason)
        assert self.lost is not None
        return self.lost

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self.lost is not None:
                return
            self.lost, when_lost = reason, self._when_lost
        when_lost(reason)
        self._has_lost.set()  # only now: who waits for it may end the process

    def _run(self) -> None:
        # Counted in own beats, not by the clock: a machine that stood still itself has not listened.
        silent = dict.fromkeys(self._peers, 0)
        last = 0.0
        with selectors.DefaultSelector() as selector:
            for name, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, name)
            while not self._dismissed and self.lost is None:
                readable = [key.data for key, _ in selector.select(_BEAT_SECONDS)]
                silent.update(dict.fromkeys(readable, 0))
                gone = [name for name in readable if not _hears(self._peers[name])]
                if (now := time.monotonic()) - last >= _BEAT_SECONDS:
                    last = now
                    gone += [name for name, peer in self._peers.items() if not _beats(peer)]
                    silent = {name: beats + 1 if self._is_strict else 0 for name, beats in silent.items()}
                if gone:
                    self._note(f"{gone[0]} is gone")
                elif self._is_strict:
                    self._note_what_hangs(silent, now)

    def _note(self, reason: str) -> None:
        if not self._dismissed:
            self._lose(reason)

    def _note_what_hangs(self, silent: Mapping[str, int], now: float) -> None:
        """silent: beats since something was heard."""
        busy = self.busy_since
        for name, beats in silent.items():
            if beats * _BEAT_SECONDS > _SILENCE_SECONDS:
                self._note(f"{name} has not been heard of for {_SILENCE_SECONDS:g} s")
        if busy is not None and now - busy > _STEP_SECONDS:
            self._note(f"a step has taken more than {_STEP_SECONDS:g} s")
        if os.getppid() != self._parent:
            self._note("the process that started the group is gone")


def _hears(peer: socket.socket) -> bool:
    """Whether it still lives, by what is to be read of it."""
    try:
        return bool(peer.recv(4096, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _beats(peer: socket.socket) -> bool:
    """Sends a sign of life; whether there is anybody to send it to."""
    try:
        peer.send(b".", socket.MSG_DONTWAIT)
    except BlockingIOError:  # it does not read: silence will tell
        pass
    except OSError:
        return False
    return True
