"""What the bench gives an engine to do. Works take the likeliest token of every row, as transformers is made to."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence as Seq
from typing import Any, Self

from torch import Tensor

from tandem.inference.engine import Engine
from tandem.inference.runner import Sequence

#: Calls for each step asked for, after which works that never share one are given up.
_PATIENCE = 20


class Stopwatch:
    """Times the steps that all works of a group take part in, from one's end to the next one's. seconds: of each.

    A work that was submitted first may step alone before the others arrive; such steps do not count.
    """

    def __init__(self, works: int, steps: int) -> None:
        self._works = works
        self._steps = steps
        self._calls = 0
        self._last: float | None = None
        self.seconds: list[float] = []

    @property
    def done(self) -> bool:
        return len(self.seconds) >= self._steps

    def stamp(self, present: int) -> None:
        """At the end of a step. present: works that took part. Raises RuntimeError where they never are all."""
        self._calls += 1
        if self._calls > _PATIENCE * (self._works + self._steps):
            raise RuntimeError(f"{self._works} works never shared {self._steps} steps one after the other")
        if present != self._works:
            self._last = None
            return
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


class ArgmaxWork:
    """Base of all works here: the likeliest token of each row goes to `took`."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence

    def next_block(self) -> tuple[Seq[int], int] | None:
        raise NotImplementedError

    def took(self, tokens: list[int]) -> Any:
        """tokens: one for each row. Returns what the reader of the engine's stream is given, None for nothing."""
        raise NotImplementedError

    @classmethod
    def stepped(cls, works: Seq[Self]) -> None:
        """At the end of a step that `works` took part in."""

    @classmethod
    def receive_all(cls, works: Seq[Self], logits: Seq[Tensor]) -> Seq[Any]:
        results = [work.took(rows.argmax(-1).tolist()) for work, rows in zip(works, logits, strict=True)]
        cls.stepped(works)
        return results


class TimedWork(ArgmaxWork):
    """Steps until the group's stopwatch has what it was set for."""

    def __init__(self, sequence: Sequence, watch: Stopwatch) -> None:
        super().__init__(sequence)
        self.watch = watch

    @classmethod
    def stepped(cls, works: Seq[Self]) -> None:
        works[0].watch.stamp(len(works))


class Repeat(TimedWork):
    """The same block behind the first `context` tokens, over and over. tokens: the last answer, one for each row."""

    def __init__(self, sequence: Sequence, watch: Stopwatch, context: int, block: Seq[int]) -> None:
        super().__init__(sequence, watch)
        self.tokens: list[int] = []
        self._context = context
        self._block = block

    def next_block(self) -> tuple[Seq[int], int] | None:
        if self.watch.done:
            return None
        self.sequence.truncate(self._context)
        return self._block, len(self._block)

    def took(self, tokens: list[int]) -> None:
        self.tokens = tokens


class Decode(TimedWork):
    """Token by token behind the first `context` tokens."""

    def __init__(self, sequence: Sequence, watch: Stopwatch, context: int, first: int) -> None:
        super().__init__(sequence, watch)
        self._context: int | None = context
        self._token = first

    def next_block(self) -> tuple[Seq[int], int] | None:
        if self._context is not None:
            self.sequence.truncate(self._context)
            self._context = None
        return None if self.watch.done else ([self._token], 1)

    def took(self, tokens: list[int]) -> None:
        self._token = tokens[0]


class Prompt(ArgmaxWork):
    """A prompt and up to `count` tokens after it, which go to the reader. begun: set when the engine takes it up."""

    def __init__(self, sequence: Sequence, prompt: Seq[int], count: int = 1, *, behind: int | None = None) -> None:
        """behind: how many tokens of the sequence stay in front; None for all."""
        super().__init__(sequence)
        self._behind = behind
        self.begun = threading.Event()
        self.tokens: list[int] = []
        self._feed: Seq[int] = prompt
        self._count = count

    def next_block(self) -> tuple[Seq[int], int] | None:
        self.begun.set()
        if self._behind is not None:
            self.sequence.truncate(self._behind)
            self._behind = None
        return (self._feed, 1) if len(self.tokens) < self._count else None

    def took(self, tokens: list[int]) -> int:
        self.tokens += tokens
        self._feed = tokens
        return tokens[0]


class Forced(ArgmaxWork):
    """A prompt, then the tokens of `text` whatever the model would say; tokens: what it said at each of them."""

    def __init__(self, sequence: Sequence, prompt: Seq[int], text: Seq[int]) -> None:
        super().__init__(sequence)
        self.tokens: list[int] = []
        self._prompt = prompt
        self._text = text

    def next_block(self) -> tuple[Seq[int], int] | None:
        if len(self.tokens) == len(self._text):
            return None
        said = len(self.tokens)
        return ([self._text[said - 1]] if said else self._prompt, 1)

    def took(self, tokens: list[int]) -> None:
        self.tokens += tokens


async def opened(engine: Engine, prompt: Seq[int]) -> Sequence:
    """A sequence that holds `prompt`."""
    sequence = await engine.open()
    await engine.run(Prompt(sequence, prompt))
    return sequence
