"""What the services have in common at their start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType

from tandem.settings import USAGE_ERROR


def prepare_for_models() -> None:
    """Before torch is imported: threads that wait for each other sleep instead of spinning.

    Services that share cores would otherwise slow each other down several times. What the operator has set stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def run_service(name: str, serve: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs `serve` to its end; what is wrong with the configuration is one line and exit code 2."""
    from tandem.models import ModelError
    from tandem.rpc.server import ListenError
    from tandem.tokenization import TokenizationError

    # While modules and models load; from its start on, the server handles signals itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        asyncio.run(serve())
    except (ModelError, TokenizationError, ListenError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None


def _end(number: int, frame: FrameType | None) -> None:
    """By an exception, so that what has begun is undone (a model half converted)."""
    raise SystemExit(128 + number)
