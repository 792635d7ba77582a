"""Which models stand between a text and its target: the small draft, the middle model, or both on top of each other.

Which is best depends on what each costs and on how often each is believed, and no stack is best everywhere (HSD, arXiv
2510.19705, derives the latency of a stack from these and finds the best by a shortest path). With three models there
are three stacks beside the target alone, few enough to measure instead [ours]: seconds of a token, in which costs,
acceptance, the wire and the load are all contained. Whether the target alone is better is the stop rule's matter
(`goodput`), for each of the stacks.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

from tandem.step_times import Recent

# Completions that count in what is known of a stack, about.
_MEMORY = 16
# A stack that is not the best is tried again after so many completions, at first and at most, doubling: its models may
# have become faster, or the load another.
_AGAIN = (8, 128)
# Tokens from which on a completion says something.
_LEAST_TOKENS = 8
# Combinations of models and rules.
_MOST_REMEMBERED = 64


class Stack(enum.Enum):
    """Below the target."""

    DRAFT = "draft"
    MIDDLE = "middle"
    BOTH = "both"


@dataclass(slots=True)
class _Known:
    """seconds: of a token. waits: completions from one trial to the next; due: which is the next."""

    seconds: Recent = field(default_factory=partial(Recent, memory=_MEMORY))
    waits: int = _AGAIN[0]
    due: int = 0


class Stacks:
    """What completions have learnt together of the stacks below one target."""

    def __init__(self) -> None:
        self._known = {stack: _Known() for stack in Stack}
        self._chosen = 0

    def choose(self, there: Collection[Stack]) -> Stack:
        """One of those that are there, at least one: the best, or one that is to be tried. Those that nothing is known
        of are tried first, the tallest before the others."""
        self._chosen += 1
        stacks = [stack for stack in (Stack.BOTH, Stack.DRAFT, Stack.MIDDLE) if stack in there]
        best = min(stacks, key=lambda stack: self._known[stack].seconds.or_else(-math.inf))
        if self._known[best].seconds.value is None:
            return best
        for stack in stacks:
            known = self._known[stack]
            if stack is not best and known.due <= self._chosen:
                known.due, known.waits = self._chosen + known.waits, min(2 * known.waits, _AGAIN[1])
                return stack
        self._known[best].waits = _AGAIN[0]
        return best

    def learn(self, stack: Stack, seconds: float, tokens: int) -> None:
        """A completion by it has ended. seconds: of all of its tokens but the first, which the prompt counts in."""
        if tokens >= _LEAST_TOKENS:
            known = self._known[stack]
            if known.seconds.value is None:
                known.due = self._chosen + known.waits
            known.seconds.add(seconds / tokens)


class StacksByKey:
    """What was learnt of each combination of models and rules, of those that came last."""

    def __init__(self) -> None:
        self._stacks: dict[object, Stacks] = {}

    def of(self, key: object) -> Stacks:
        if key not in self._stacks:
            self._stacks[key] = Stacks()
            if len(self._stacks) > _MOST_REMEMBERED:
                del self._stacks[next(iter(self._stacks))]
        return self._stacks[key]
