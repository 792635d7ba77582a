"""llama.cpp's server, with models as GGUF files, which the user names: their quantisation is theirs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial

from bench.peers.servers import Server, Setup

NAME = "llama.cpp"
_PROGRAM = "llama-server"


def absent(setup: Setup) -> str | None:
    """Why it cannot be measured; None where it can."""
    if shutil.which(_PROGRAM) is None:
        return "not installed"
    return None if setup.target_gguf else "needs --target-gguf (and --draft-gguf)"


def servers(setup: Setup) -> list[Server]:
    """Without speculation, and with a draft where there is one. The length of drafts is the server's own."""
    note = "weights as in the GGUF file; never draws the end of sequence"
    drafts = {NAME: None} | ({f"{NAME}, draft": setup.draft_gguf} if setup.draft_gguf else {})
    return [Server(name, partial(command, setup, draft), "gguf", note=note) for name, draft in drafts.items()]


def command(setup: Setup, draft: str | None, port: int) -> Sequence[str]:
    """The context is shared out among the callers."""
    flags = [
        "--model", str(setup.target_gguf), "--host", "127.0.0.1", "--port", str(port),
        "--parallel", str(setup.clients), "--ctx-size", str(setup.clients * setup.context),
    ]  # fmt: skip
    if setup.threads is not None:
        flags += ["--threads", str(setup.threads)]
    return [_PROGRAM, *flags, *(["--model-draft", draft] if draft is not None else [])]
