"""Signals and a command that has started services: it ends in order, and nothing it started outlives it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def termination_unwinds() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the command as Ctrl-C does; the exit code is 128 and the signal's number."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handled(unwind, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def signals_wait(meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """What would end the command takes effect when the block is left. meanwhile: called for each signal that comes."""
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        meanwhile()

    with _handled(note, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def _handled(handler: _Handler, *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # signals interrupt no other
    before = {number: signal.getsignal(number) for number in numbers}
    # Whoever started the command with a signal ignored (nohup) meant it.
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
