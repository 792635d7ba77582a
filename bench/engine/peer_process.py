"""A peer in a process of its own.

Two models that compute in parallel in one process share its pool of threads, and each waits for the other's: neither
is then as fast as it is alone (see tandem/inference/threads.py). Here transformers has a process, with the environment
that the bench was started with, as whoever uses it has.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch

from bench.engine.peer import Peer
from bench.machine import keep_freed_memory

_PATIENCE_SECONDS = 10


class PeerProcess:
    """Methods are those of Peer, and raise RuntimeError with what was raised there. Close it at the end."""

    def __init__(self, load: Callable[[], Peer], threads: int, environment: Mapping[str, str]) -> None:
        """load: what can be pickled; called there. threads: of the CPU."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, load, threads), name="transformers", daemon=True)
        with patch.dict(os.environ, environment, clear=True):
            self._process.start()
        theirs.close()

    async def steps(
        self, texts: Sequence[Sequence[int]], lengths: Sequence[int], blocks: Sequence[Sequence[int]], count: int
    ) -> tuple[float, list[list[int]]]:
        seconds, tokens = await self._ask("steps", texts, lengths, blocks, count)
        return seconds, tokens

    async def decode(self, texts: Sequence[Sequence[int]], lengths: Sequence[int], tokens: int) -> float:
        return float(await self._ask("decode", texts, lengths, tokens))

    async def greedy(self, prompt: Sequence[int], count: int, ends: frozenset[int]) -> list[int]:
        return list(await self._ask("greedy", prompt, count, ends))

    def close(self) -> None:
        self._process.terminate()
        self._process.join(_PATIENCE_SECONDS)
        self._connection.close()

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            failed, answer = await asyncio.to_thread(self._connection.recv)
        except (EOFError, OSError) as error:
            raise RuntimeError("the process of transformers has ended") from error
        if failed:
            raise RuntimeError(f"transformers: {answer}")
        return answer


def _serve(connection: Connection, load: Callable[[], Peer], threads: int) -> None:
    """Answers until the other end is closed, be it by the other process's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the bench that is interrupted
    keep_freed_memory()
    torch.set_num_threads(threads)
    peer: Peer | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            peer = peer or load()
            answer = False, getattr(peer, method)(*arguments)
        except Exception:
            answer = True, traceback.format_exc()
        connection.send(answer)
