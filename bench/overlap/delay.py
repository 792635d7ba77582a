"""A wire that takes its time: `python -m bench.overlap.delay ADDRESS MILLISECONDS` prints the port that leads there.

Every byte arrives so much later than it was sent, in both directions; how many there are makes no difference. Threads,
because an event loop's timers are no finer than a millisecond; a process of its own, to be held up by nobody.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress

from bench.overlap.device import sleep_precisely

_BYTES = 1 << 16


def serve(address: str, milliseconds: float, listener: socket.socket) -> None:
    """Takes connections until the listener is closed, which raises OSError."""
    host, _, port = address.rpartition(":")
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            near.close()
            continue
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _lead(near, far, milliseconds / 1e3)
        _lead(far, near, milliseconds / 1e3)


def _lead(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    """One direction, in two threads: one notes when bytes came, the other lets them go in time."""
    passing: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_BYTES)
            except OSError:
                data = b""
            passing.put((time.perf_counter() + seconds, data))

    def write() -> None:
        sleep_precisely()
        with suppress(OSError):
            while True:
                due, data = passing.get()
                if (left := due - time.perf_counter()) > 0:
                    time.sleep(left)
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()


def main() -> None:
    address, milliseconds = sys.argv[1], float(sys.argv[2])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(address, milliseconds, listener)


if __name__ == "__main__":
    main()
