"""SGLang: a draft model (STANDALONE) or an EAGLE-3 head. It chooses depth and breadth by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from bench.peers.servers import Server, Setup

NAME = "SGLang"
# It answers with text alone otherwise.
_EXTRA = {"return_token_ids": True}


def absent(setup: Setup) -> str | None:
    """Why it cannot be measured; None where it can."""
    return None if find_spec("sglang") else "not installed"


def servers(setup: Setup) -> list[Server]:
    """Without speculation, and with each kind that there is a draft for."""
    kinds: dict[str, tuple[str, str] | None] = {NAME: None}
    if setup.draft is not None:
        kinds[f"{NAME}, STANDALONE"] = "STANDALONE", setup.draft
    if setup.eagle_head is not None:
        kinds[f"{NAME}, EAGLE-3"] = "EAGLE3", setup.eagle_head
    return [Server(name, partial(command, setup, kind), setup.target, _EXTRA) for name, kind in kinds.items()]


def command(setup: Setup, kind: tuple[str, str] | None, port: int) -> Sequence[str]:
    """kind: algorithm and the path of its draft."""
    flags = [
        "--model-path", setup.target, "--host", "127.0.0.1", "--port", str(port), "--dtype", setup.dtype,
        "--context-length", str(setup.context), "--max-running-requests", str(setup.clients),
    ]  # fmt: skip
    if kind is not None:
        flags += ["--speculative-algorithm", kind[0], "--speculative-draft-model-path", kind[1]]
    return [sys.executable, "-m", "sglang.launch_server", *flags]
