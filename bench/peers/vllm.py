"""vLLM: a draft model or an EAGLE-3 head, by `--speculative-config`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from bench.peers.servers import Server, Setup

NAME = "vLLM"
# It needs a number; EAGLE heads draft fewer than models do.
_DRAFT_TOKENS, _EAGLE_TOKENS = 5, 3
# It answers with text alone otherwise.
_EXTRA = {"return_token_ids": True}


def absent(setup: Setup) -> str | None:
    """Why it cannot be measured; None where it can."""
    return None if shutil.which("vllm") or find_spec("vllm") else "not installed"


def servers(setup: Setup) -> list[Server]:
    """Without speculation, and with each kind that there is a draft for."""
    configs: dict[str, Mapping[str, Any] | None] = {NAME: None}
    if setup.draft is not None:
        configs[f"{NAME}, draft {_DRAFT_TOKENS}"] = {
            "method": "draft_model", "model": setup.draft, "num_speculative_tokens": _DRAFT_TOKENS,
        }  # fmt: skip
    if setup.eagle_head is not None:
        configs[f"{NAME}, EAGLE-3"] = {
            "method": "eagle3", "model": setup.eagle_head, "num_speculative_tokens": _EAGLE_TOKENS,
        }  # fmt: skip
    return [Server(name, partial(command, setup, config), setup.target, _EXTRA) for name, config in configs.items()]


def command(setup: Setup, config: Mapping[str, Any] | None, port: int) -> Sequence[str]:
    if program := shutil.which("vllm"):  # be it of another environment
        start = [program, "serve", setup.target]
    else:
        start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", setup.target]
    flags = [
        "--host", "127.0.0.1", "--port", str(port), "--dtype", setup.dtype,
        "--max-model-len", str(setup.context), "--max-num-seqs", str(setup.clients),
    ]  # fmt: skip
    return [*start, *flags, *(["--speculative-config", json.dumps(config)] if config is not None else [])]
