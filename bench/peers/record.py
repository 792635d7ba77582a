"""What is kept of a comparison, as JSON values."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.peers.figures import equal_texts
from bench.peers.run import Results

_PACKAGES = (
    "tandem-serving", "torch", "transformers", "scikit-learn", "grpcio", "httpx2", "vllm", "sglang",
)  # fmt: skip


def plain(results: Results, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """By side and number of clients: tokens per second of each repetition, and how many texts are transformers'."""
    sides: dict[str, dict[str, Any]] = {}
    for clients, by_side in results.measured.items():
        for name, measured in by_side.items():
            sides.setdefault(name, {})[str(clients)] = {
                "tokens_per_second": list(measured.speeds),
                "equal_texts": equal_texts(results, clients, name, decode),
                "note": measured.side.note(clients),
            }
    return {"sides": sides, "not_measured": results.absent | results.failed, "versions": _versions()}


def _versions() -> dict[str, str]:
    """Of the packages that are installed beside the bench."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
