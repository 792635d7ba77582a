"""A model whose forward passes are counted, and can be made to stand still at a chosen one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from tandem.inference.loaded import LoadedModel


class Gate:
    """Of one model. passes: that have begun."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.passes = 0
        self._hold_at: int | None = None
        self._opened = threading.Event()
        self._opened.set()
        loaded.model.register_forward_pre_hook(self._enter)

    @property
    def is_held(self) -> bool:
        """Whether a pass stands still now."""
        return not self._opened.is_set() and self._hold_at is not None and self.passes >= self._hold_at

    def close(self, after: int = 0) -> None:
        """The pass that comes after so many more stands still until `open`."""
        self._opened.clear()
        self._hold_at = self.passes + after + 1

    def open(self) -> None:
        self._hold_at = None
        self._opened.set()

    def _enter(self, *_: object) -> None:
        self.passes += 1
        if self._hold_at is not None and self.passes >= self._hold_at:
            assert self._opened.wait(60), "the test never opened the gate"


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for what is about to happen elsewhere; fails by its deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
