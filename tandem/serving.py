"""What the services have in common at their start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType

from tandem import heap
from tandem.settings import USAGE_ERROR


def prepare_for_models() -> None:
    """Before torch is imported: threads that wait for each other spin for a moment only, then sleep.

    While they spin, services that share cores slow each other down several times. If they never spin, every operation
    waits for a thread to be woken, which doubles the time of a small model's step. So they spin for as long as there
    is between two operations of a step, some 0.1 ms, and not between steps. What the operator has set stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    heap.end_at_once()


def run_service(name: str, serve: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs `serve` to its end; what is wrong with the configuration is one line and exit code 2."""
    heap.load()
    from tandem.models import ModelError
    from tandem.rpc.server import ListenError
    from tandem.rpc.tls import TlsError
    from tandem.tokenization import TokenizationError

    # While modules and models load; from its start on, the server handles signals itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        asyncio.run(serve())
    except (ModelError, TokenizationError, ListenError, TlsError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None


def _end(number: int, frame: FrameType | None) -> None:
    """By an exception, so that what has begun is undone (a model half converted)."""
    raise SystemExit(128 + number)
