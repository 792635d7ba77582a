"""Which stack a completion is made by."""

from __future__ import annotations

from collections import Counter

from orchestrator.stack.choice import Stack, Stacks, StacksByKey

ALL = frozenset(Stack)


def play(stacks: Stacks, seconds: dict[Stack, float], times: int, there: frozenset[Stack] = ALL) -> Counter[Stack]:
    """How often each is chosen, where a token takes so long."""
    chosen: Counter[Stack] = Counter()
    for _ in range(times):
        stack = stacks.choose(there)
        stacks.learn(stack, 100 * seconds[stack], 100)
        chosen[stack] += 1
    return chosen


def test_each_is_tried_and_the_fastest_is_used() -> None:
    for fastest in Stack:
        seconds = {stack: 0.5 if stack is fastest else 1.0 for stack in Stack}
        chosen = play(Stacks(), seconds, 200)
        assert set(chosen) == set(Stack)
        assert chosen[fastest] > 180


def test_one_that_has_become_the_fastest_is_found() -> None:
    stacks = Stacks()
    play(stacks, {Stack.DRAFT: 1.0, Stack.MIDDLE: 2.0, Stack.BOTH: 3.0}, 50)
    later = play(stacks, {Stack.DRAFT: 1.0, Stack.MIDDLE: 2.0, Stack.BOTH: 0.01}, 2000)
    assert later[Stack.BOTH] > 1000


def test_only_what_is_there_is_chosen() -> None:
    there = frozenset({Stack.DRAFT, Stack.MIDDLE})
    chosen = play(Stacks(), {Stack.DRAFT: 1.0, Stack.MIDDLE: 0.5, Stack.BOTH: 0.1}, 60, there)
    assert set(chosen) == there and chosen[Stack.MIDDLE] > chosen[Stack.DRAFT]


def test_a_completion_of_few_tokens_says_nothing() -> None:
    stacks = Stacks()
    first = stacks.choose(ALL)
    stacks.learn(first, 0.001, 2)
    assert stacks.choose(ALL) is first


def test_what_is_remembered_is_bounded() -> None:
    known = StacksByKey()
    one = known.of("first")
    assert known.of("first") is one
    for key in range(200):
        known.of(key)
    assert known.of("first") is not one
