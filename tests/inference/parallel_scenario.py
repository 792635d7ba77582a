"""What a runner is put through, alone or leading others, and the logits that it gives on the way."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from tandem.inference.blocks import BlockPool
from tandem.inference.runner import Block, ModelRunner, Sequence
from tandem.inference.scheduler import Budget, Scheduler, Task

VOCABULARY = 96
#: Too few for all sequences of `_serve` at once.
_BLOCKS = 14
_SHARED = 36


def play(runner: ModelRunner) -> dict[str, Any]:
    """forward, served: logits by what they are of. preemptions: while serving. found: tokens that were cached by
    others."""
    return {"forward": _forward(runner)} | _serve(runner)


def text(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def _forward(runner: ModelRunner) -> list[Tensor]:
    """Prefill, ragged steps, verification, rollback and forks."""
    logits: list[Tensor] = []

    def feed(*blocks: tuple[Sequence, list[int], int]) -> None:
        logits.extend(runner.forward([Block(*block) for block in blocks]))

    first, second, third = runner.open(), runner.open(), runner.open()
    feed((first, text(40, 1), 2), (second, text(3, 2), 1), (third, text(17, 3), 17))
    for seed in range(10, 13):
        feed((first, text(1, seed), 1), (second, text(1, seed + 3), 1), (third, text(1, seed + 6), 1))
    feed((first, text(6, 20), 6), (second, text(1, 21), 1), (third, text(9, 22), 0))
    first.truncate(44)
    feed((first, text(5, 23), 5), (third, text(2, 24), 1))
    # Two go on in a block that they share: one of them copies it first.
    fourth = first.fork()
    feed((fourth, text(3, 25), 3), (first, text(2, 26), 2), (second, text(4, 27), 4))
    feed((fourth, text(1, 28), 1), (first, text(1, 29), 1))
    second.close()
    feed((fourth, text(20, 30), 1))
    for sequence in (first, third, fourth):
        sequence.close()
    return logits


def _serve(runner: ModelRunner) -> dict[str, Any]:
    """Sequences that begin alike, over a cache that does not hold them all, in steps of a few tokens."""
    runner.cache.pool = BlockPool(_BLOCKS)
    scheduler = Scheduler(runner.cache.pool, Budget(tokens=24, rows=64))
    sequences = [runner.open() for _ in range(5)]
    for sequence in sequences:
        scheduler.add(sequence)
    served: dict[tuple[int, int], Tensor] = {}
    found = 0
    for turn in range(4):
        tasks = {}
        for number, sequence in enumerate(sequences):
            sequence.extend(text(_SHARED, 50) + text(14 + number, number) if turn == 0 else text(7, 60 + turn))
            tasks[Task(sequence, 4)] = number, turn
        waiting = list(tasks)
        while waiting:
            missing = sum(task.sequence.missing for task in waiting)
            planned = scheduler.plan(waiting)
            found += missing - sum(task.sequence.missing for task in waiting)
            if not planned:  # who is served already holds what is left of the cache; an engine waits for a second
                for sequence in sequences:
                    if all(task.sequence is not sequence for task in waiting):
                        sequence.drop()
                continue
            results = runner.run([chunk for _, chunk in planned])
            for (task, chunk), logits in zip(planned, results, strict=True):
                if chunk.logits_rows:
                    served[tasks[task]] = logits
                    waiting.remove(task)
    for sequence in sequences:
        sequence.close()
    return {"served": served, "preemptions": scheduler.preemptions, "found": found}
