"""Hostile orchestrators, callers, drafts and targets: never INTERNAL, a crash or a hang; nobody else is harmed; nothing
is left. `python -m tests.fuzz --messages 100000` is the same at length."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from tests.fuzz import callers, scenes, services
from tests.fuzz.report import Tally, table

#: Messages to each; a seed for each run of another size.
EXAMPLES = int(os.environ.get("TANDEM_FUZZ_EXAMPLES", "600"))


@pytest.mark.parametrize("side", ["draft", "target"])
def test_nothing_that_an_orchestrator_says_harms_a_service_or_another(side: str) -> None:
    tally = asyncio.run(services.fuzz(side, 2 * EXAMPLES, EXAMPLES))
    assert not tally.defects, table([tally])
    assert tally.good >= 1 and tally.messages >= 2 * EXAMPLES
    # Much was answered, and much refused for what it was.
    assert {"OK", "CANCELLED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"} <= set(tally.statuses), tally.statuses


def test_nothing_that_a_caller_says_harms_an_orchestrator_or_another() -> None:
    tally = asyncio.run(callers.fuzz(EXAMPLES // 2, EXAMPLES))
    assert not tally.defects, table([tally])
    assert tally.good >= 1 and {"OK", "CANCELLED", "INVALID_ARGUMENT"} <= set(tally.statuses), tally.statuses


def test_what_a_part_says_of_itself_is_read_as_it_was() -> None:
    said = Tally("target", messages=3, defects=["one"], good=1)
    said.ended("OK", "", "stream 1")
    said.ended("INTERNAL", "a defect", "stream 2")
    assert Tally.from_dict(json.loads(json.dumps(said.to_dict()))) == said


@pytest.mark.parametrize("name", [scene.name for scene in scenes.scenes(0)])
def test_nothing_that_a_service_answers_harms_a_completion_elsewhere(name: str) -> None:
    [scene] = [scene for scene in scenes.scenes(EXAMPLES) if scene.name == name]

    async def played() -> scenes.Tally:
        return await scenes.play(scene, EXAMPLES // 4, await scenes.known_texts())

    tally = asyncio.run(played())
    assert not tally.defects, table([tally])
    assert sum(hostility.done.total() for hostility in scene.hostile) > 0  # few where others are used instead
    if scene.never_fails:
        assert set(tally.statuses) == {"OK"} and tally.good
