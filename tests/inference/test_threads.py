"""The model's operations find their threads awake, and no other part of the process takes them away."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from tandem.inference import threads
from tandem.inference.engine import Engine, EngineClosedError
from tandem.inference.threads import leave_threads_to_engine
from tandem.serving import prepare_for_models
from tests.inference.works import GatedRunner, Greedy


class Threads(Greedy):
    """Notes how many threads its step may compute with."""

    seen = 0

    def receive(self, logits: Tensor) -> Any:
        self.seen = torch.get_num_threads()
        return super().receive(logits)


async def test_the_engine_computes_with_its_threads_and_all_others_with_one(runner: GatedRunner) -> None:
    """Two threads that compute in parallel in one process make each other's operations slow."""
    before = torch.get_num_threads()
    engines = [Engine(runner, threads=leave_threads_to_engine(count)) for count in (3, None)]
    try:
        for engine in engines:
            engine.start()
        for engine, expected in zip(engines, (3, threads._DEFAULT), strict=True):
            work = Threads(await engine.open(), [1], 2)
            await engine.run(work)
            assert work.seen == expected
            assert torch.get_num_threads() == 1
            assert await asyncio.to_thread(torch.get_num_threads) == 1
    finally:
        for engine in engines:
            await engine.close()
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("PASSIVE", "5000")),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_threads_spin_for_a_bounded_time_unless_the_operator_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: tuple[str, str | None]
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that both are restored at the end
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    prepare_for_models()
    assert (os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_starting_an_engine_that_cannot_have_its_threads_does_not_wait_for_ever(runner: GatedRunner) -> None:
    engine = Engine(runner, threads=-1)
    await asyncio.wait_for(asyncio.to_thread(engine.start), 30)
    with pytest.raises(EngineClosedError):
        await engine.open()
    await engine.close()
