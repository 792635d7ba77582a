"""Services that share cores compute one after the other, and none of them can stop the others for good."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tandem.inference import turns as module
from tandem.inference.engine import Engine
from tandem.inference.runner import ModelRunner
from tandem.inference.turns import Turns
from tests.inference.works import Greedy
from tests.support.tiny import tiny_llama

HOLDER = """
import sys, time
from pathlib import Path
from tandem.inference.turns import Turns
turns = Turns(Path(sys.argv[1]), keeps=True)
turns.begin()
print("has it", flush=True)
time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    """Another process, which has the turn."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_no_two_have_the_turn_and_they_alternate(tmp_path: Path) -> None:
    inside, most, order = 0, 0, list[str]()

    def work(name: str) -> None:
        nonlocal inside, most
        turns = Turns(tmp_path / "turns", keeps=False)
        for _ in range(40):
            turns.begin()
            inside += 1
            most = max(most, inside)
            order.append(name)
            time.sleep(0.001)
            inside -= 1
            turns.end(more=True)
        turns.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and len(order) == 80
    together = order[order.index("b" if order[0] == "a" else "a") : 60]
    # Who waits has the next turn: three in a row are rare, of a thread that the system kept from asking in time.
    in_a_row = sum(len(set(three)) == 1 for three in zip(together, together[1:], together[2:], strict=False))
    assert in_a_row <= len(together) / 5


def test_a_turn_that_is_kept_lasts_until_there_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.02)
    keeper, other = Turns(tmp_path / "turns", keeps=True), Turns(tmp_path / "turns", keeps=False)
    assert keeper.begin()
    keeper.end(more=True)
    assert not keeper.begin()  # it lasts
    other.begin()
    assert other._since is None
    keeper.end(more=False)
    other.begin()
    assert other._since is not None
    for each in (keeper, other):
        each.close()


def test_a_turn_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEP_SECONDS", 0.0)
    keeper = Turns(tmp_path / "turns", keeps=True)
    keeper.begin()
    keeper.end(more=True)
    assert keeper._since is None
    keeper.close()


def test_a_process_that_is_killed_gives_its_turn_back(tmp_path: Path) -> None:
    process = _holder(tmp_path / "turns")
    _end(process)
    turns = Turns(tmp_path / "turns", keeps=False)
    assert turns.begin() and turns._since is not None
    turns.close()


def test_containers_whose_processes_have_one_number_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a namespace of its own is process 1 and has the same descriptors."""
    monkeypatch.setattr(module.os, "getpid", lambda: 1)
    seen, descriptors = [], []
    for _ in range(2):
        turns = Turns(tmp_path / "turns", keeps=False)
        seen.append(turns.begin())
        descriptors.append(turns._door)
        turns.close()
    assert descriptors[0] == descriptors[1]  # else this shows nothing
    assert seen == [True, True]


def test_one_that_hangs_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    process = _holder(tmp_path / "turns")
    try:
        process.send_signal(signal.SIGSTOP)
        turns = Turns(tmp_path / "turns", keeps=False)
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                turns.begin()
                assert turns._since is None
                turns.end(more=True)
        assert len(caplog.records) == 1 and "keeps its turn" in caplog.text
    finally:
        _end(process)
    turns.begin()
    assert turns._since is not None
    turns.close()


async def test_what_came_while_another_had_the_turn_shares_a_step(tmp_path: Path) -> None:
    other = Turns(tmp_path / "turns", keeps=True)
    other.begin()
    engine = Engine(ModelRunner(tiny_llama(1)), turns=Turns(tmp_path / "turns", keeps=False))
    engine.start()
    sequences = [await engine.open() for _ in range(3)]
    running = [asyncio.ensure_future(engine.run(Greedy(sequence, [1, 2], 1))) for sequence in sequences]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in running)
    other.end(more=False)
    timings = await asyncio.gather(*running)
    assert [timing.step_sequences for timing in timings] == [3, 3, 3]
    await engine.close()
    other.close()


async def test_two_engines_never_compute_at_once_and_say_what_they_would_alone(tmp_path: Path) -> None:
    busy, most = 0, 0

    class Watched(ModelRunner):
        def run(self, chunks):  # type: ignore[no-untyped-def]
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            time.sleep(0.001)
            try:
                return super().run(chunks)
            finally:
                busy -= 1

    async def texts(engines: list[Engine]) -> list[list[int]]:
        works = []
        for engine in engines:
            engine.start()
            for prompt in ([1, 2], [3]):
                works.append((engine, Greedy(await engine.open(), prompt, 12)))
        await asyncio.gather(*(engine.run(work) for engine, work in works))
        for engine in engines:
            await engine.close()
        return [work.tokens for _, work in works]

    def engine(seed: int, shared: Turns | None) -> Engine:
        return Engine(Watched(tiny_llama(seed)), turns=shared)

    path = tmp_path / "turns"
    in_turn = await texts([engine(1, Turns(path, keeps=False)), engine(2, Turns(path, keeps=True))])
    assert most == 1
    assert in_turn == await texts([engine(1, None)]) + await texts([engine(2, None)])
