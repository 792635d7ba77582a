"""The models under test: in an engine, and in plain transformers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.engine.contexts import LONGEST, Contexts
from bench.engine.figures import BATCH
from bench.engine.peer import Peer
from bench.prompts import SPEC_BENCH_20, read_prompts
from tandem.inference.engine import Engine
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.serving import load_engine
from tandem.inference.threads import configure_threads
from tandem.models import resolve
from tandem.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompts:
    """Real prompts as token ids, and what ends an answer."""

    prompts: list[list[int]]
    ends: frozenset[int]


class Models:
    """One model, loaded as often as it is needed in another form. `await close()` it at the end."""

    def __init__(self, name: str, threads: int) -> None:
        """name: as the services take it. threads: of each side, on the CPU."""
        self.name = name
        self.threads = threads
        self._engines: dict[str | None, Engine] = {}
        self._peers: dict[str, Peer] = {}
        self._contexts: Contexts | None = None
        configure_threads(threads)

    def engine(self, weights: str | None = None) -> Engine:
        """A started engine in bf16. weights: `int4` for 4-bit ones. Raises ModelError or TokenizationError."""
        if weights not in self._engines:
            engine = self._engines[weights] = self._load_engine(weights)
            engine.start()
        return self._engines[weights]

    def peer(self, dtype: str = "bfloat16") -> Peer:
        """Transformers with weights of its own, whatever an engine does to the layers of its model."""
        if dtype not in self._peers:
            self._peers[dtype] = self._load_peer(dtype)
        return self._peers[dtype]

    def contexts(self, different: int) -> Contexts:
        """Of the engine and transformers in bf16, for several groups of figures. different: see Contexts."""
        if self._contexts is None:
            source = random.Random("contexts")
            texts = [self.random_tokens(LONGEST, source) for _ in range(BATCH)]
            self._contexts = Contexts(self.engine(), self.peer(), texts, different)
        return self._contexts

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.close()

    def prompts(self, count: int) -> Prompts:
        """The first ones of the tests' questions, as chats."""
        conversations = [[{"role": "user", "content": text}] for text in read_prompts(SPEC_BENCH_20)[:count]]
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

    def _load_peer(self, dtype: str) -> Peer:
        return Peer(load_model(resolve(self.name, None), dtype=dtype, device="cpu").model)
