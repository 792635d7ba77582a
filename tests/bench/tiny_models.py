"""A tiny model in place of the real one, so that the bench's own logic is run and nothing is worth quoting."""

from __future__ import annotations

import os
from collections.abc import Callable

from bench.engine.models import Models, Prompts
from bench.engine.peer import Peer
from bench.engine.scale import Scale
from tandem.inference.engine import Engine
from tandem.inference.runner import ModelRunner
from tests.support.tiny import tiny_llama

_CONTEXT = 4096

SCALE = Scale(
    step_repetitions=2, step_count=2, decode_repetitions=2, decode_tokens=3, agreement_prompts=2, agreement_tokens=6,
    long_prompts=2, prefixes=2, cancelled_sessions=12,
)  # fmt: skip


class TinyModels(Models):
    """In fp32, and with the same weights where 4-bit ones are asked for: both sides agree on every token."""

    vocabulary_size = 64

    def __init__(self) -> None:
        super().__init__("tiny", threads=1, environment=os.environ)

    def _load_engine(self, weights: str | None) -> Engine:
        return Engine(ModelRunner(tiny_llama(context=_CONTEXT)))

    def _peer_loader(self, dtype: str) -> Callable[[], Peer]:
        return _load_peer

    def prompts(self, count: int) -> Prompts:
        return Prompts([[5, 6, 7, number] for number in range(count)], frozenset())


def _load_peer() -> Peer:
    return Peer(tiny_llama(context=_CONTEXT).model)
