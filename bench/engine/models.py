"""The models under test: in an engine, and in plain transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from bench.engine.contexts import LONGEST, Contexts
from bench.engine.figures import BATCH
from bench.engine.peer import Peer
from bench.engine.peer_process import PeerProcess
from bench.prompts import SPEC_BENCH_20, read_prompts
from tandem.inference.engine import Engine
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.serving import load_engine
from tandem.models import resolve
from tandem.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompts:
    """Real prompts as token ids, and what ends an answer."""

    prompts: list[list[int]]
    ends: frozenset[int]


class Models:
    """One model in the forms that are asked for, one engine and one peer at a time: two of a kind would take each
    other's time. `await close()` it at the end."""

    def __init__(self, name: str, threads: int, environment: Mapping[str, str]) -> None:
        """name: as the services take it. threads: of each side, on the CPU. environment: of the peer's process."""
        self.name = name
        self.threads = threads
        self._environment = environment
        self._engine: tuple[str | None, Engine] | None = None
        self._peer: tuple[str, PeerProcess] | None = None
        self._contexts: Contexts | None = None

    async def engine(self, weights: str | None = None) -> Engine:
        """A started engine in bf16. weights: `int4` for 4-bit ones. One with others is closed.

        Raises ModelError or TokenizationError.
        """
        if self._engine is None or self._engine[0] != weights:
            await self._close_engine()
            engine = self._load_engine(weights)
            engine.start()
            self._engine = weights, engine
        return self._engine[1]

    def peer(self, dtype: str = "bfloat16") -> PeerProcess:
        """Transformers with weights of its own. One in another dtype is closed."""
        if self._peer is None or self._peer[0] != dtype:
            self._close_peer()
            self._peer = dtype, PeerProcess(self._peer_loader(dtype), self.threads, self._environment)
        return self._peer[1]

    async def contexts(self, different: int) -> Contexts:
        """Of the engine in bf16, for several groups of figures. different: see Contexts."""
        engine = await self.engine()
        if self._contexts is None:
            source = random.Random("contexts")
            texts = [self.random_tokens(LONGEST, source) for _ in range(BATCH)]
            self._contexts = Contexts(engine, texts, different)
        return self._contexts

    async def close(self) -> None:
        self._close_peer()
        await self._close_engine()

    async def _close_engine(self) -> None:
        if self._engine is not None:
            await self._engine[1].close()
            self._engine = self._contexts = None

    def _close_peer(self) -> None:
        if self._peer is not None:
            self._peer[1].close()
            self._peer = None

    def prompts(self, count: int) -> Prompts:
        """The first ones of the tests' questions, as chats."""
        conversations = [[{"role": "user", "content": prompt.text}] for prompt in read_prompts(SPEC_BENCH_20)[:count]]
        tokenizer = self._tokenizer
        return Prompts([tokenizer.apply_chat_template(turns) for turns in conversations], tokenizer.end_token_ids)

    def random_tokens(self, count: int, source: random.Random) -> list[int]:
        """What no earlier sequence began with, so that no cache knows it."""
        return [source.randrange(self.vocabulary_size) for _ in range(count)]

    @cached_property
    def vocabulary_size(self) -> int:
        return self._tokenizer.vocabulary_size

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_folder(tokenizer_folder(resolve(self.name, None)))

    def _load_engine(self, weights: str | None) -> Engine:
        options: dict[str, Any] = {} if weights is None else {"weights": weights}
        served = load_engine(self.name, None, dtype="bfloat16", device="cpu", threads=self.threads, **options)
        return served.engine

    def _peer_loader(self, dtype: str) -> Callable[[], Peer]:
        return partial(_load_peer, self.name, dtype)


def _load_peer(name: str, dtype: str) -> Peer:
    return Peer(load_model(resolve(name, None), dtype=dtype, device="cpu").model)
