"""What the two services that run models have in common at their start."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine

#: What a service cannot start with, each with a message of one line; filled in where torch may be imported.
USAGE_ERROR = 2


def set_passive_waits() -> None:
    """Before torch is imported: threads that wait for each other sleep instead of spinning.

    Services that share cores would otherwise slow each other down several times. What the operator has set stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def run_service(name: str, serve: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs `serve` to its end; what is wrong with the configuration is one line and exit code 2."""
    from tandem.inference.loaded import UnsupportedModelError
    from tandem.models import ModelError
    from tandem.rpc.server import ListenError
    from tandem.tokenization import TokenizationError

    try:
        asyncio.run(serve())
    except (ModelError, UnsupportedModelError, TokenizationError, ListenError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
    except KeyboardInterrupt:  # while loading: from its start on, the server handles signals itself
        raise SystemExit(130) from None
