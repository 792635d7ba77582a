"""Answers of the draft that are not there in time: the round goes on without, and they are waited for beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from orchestrator.account import RoundClock
from orchestrator.watch import Exchange

T = TypeVar("T")


class Late:
    """At most one answer at a time. most: seconds that one may take in all."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._pending: asyncio.Task[Any] | None = None
        self._loss: asyncio.TimerHandle | None = None  # when that is too late

    @property
    def is_awaited(self) -> bool:
        return self._pending is not None

    async def in_time(
        self, asked: Coroutine[Any, Any, T], patience: float, clock: RoundClock, exchange: Exchange
    ) -> T | None:
        """The answer; None where it is not there after `patience` seconds. Raises TimeoutError once it has taken all
        the time that it may."""
        task, patience = asyncio.ensure_future(asked), min(patience, self._most)
        try:
            done, _ = await asyncio.wait((task,), timeout=patience)
        except asyncio.CancelledError:
            _drop(task)
            raise
        if done:
            return task.result()
        clock.draft.waited(patience)
        exchange.late()
        if patience >= self._most:
            _drop(task)
            raise TimeoutError
        self._pending = task
        self._loss = asyncio.get_running_loop().call_later(self._most - patience, task.cancel)
        return None

    def take(self) -> asyncio.Task[Any] | None:
        """The one that was late and has come, or was cancelled as it took too long; None where there is none."""
        if self._pending is None or not self._pending.done():
            return None
        answered, self._pending = self._pending, None
        self._disarm()
        return answered

    def forget(self) -> None:
        """Whatever becomes of it."""
        self._disarm()
        if self._pending is not None:
            _drop(self._pending)
            self._pending = None

    def _disarm(self) -> None:
        if self._loss is not None:
            self._loss.cancel()
            self._loss = None


def _drop(task: asyncio.Task[Any]) -> None:
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
