"""The draft service looks ahead, the orchestrator takes what comes true: neither changes a text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pytest import MonkeyPatch

from orchestrator.look_ahead.learnt import Learnt
from tandem.inference.engine import Engine, EngineLimits
from tandem.v1 import completion_pb2
from target_service.server import TargetServicer
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, policy, trio

TOKENIZER = byte_tokenizer(64)
LENGTH = 60
AHEAD = EngineLimits(ahead_rows=16)


class SlowTarget(TargetServicer):
    """As large models are: slow enough for the draft to have looked ahead. Needs `draft`."""

    draft: Engine

    async def Verify(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any]:  # noqa: N802
        async for response in super().Verify(request_iterator, context):
            for _ in range(50):
                await asyncio.sleep(0.01)  # for what is on its way from one to the other, too
                if not self.draft._jobs:
                    break
            yield response


class LateTarget(TargetServicer):
    """Leaves the draft some time, which is sometimes enough."""

    async def Verify(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any]:  # noqa: N802
        async for response in super().Verify(request_iterator, context):
            await asyncio.sleep(0.02)
            yield response


@asynccontextmanager
async def services() -> AsyncIterator[Trio]:
    made: list[SlowTarget] = []

    def slow(*arguments: Any) -> SlowTarget:
        made.append(SlowTarget(*arguments))
        return made[0]

    target, draft = tiny_llama(3), tiny_llama(3, noise=0.05)
    async with trio(target, draft, TOKENIZER, draft_limits=AHEAD, serve_target=slow) as running:
        assert running.draft_engine is not None
        made[0].draft = running.draft_engine
        yield running


def hits(report: completion_pb2.SpeculationReport) -> int:
    return report.look_ahead.hits_all_kept + report.look_ahead.hits_rejected


@pytest.mark.parametrize(
    ("stop", "accept", "sampling"),
    [
        ("fixed", "exact", {}),
        ("adasd", "exact", {"repetition_penalty": 1.3}),
        ("fixed", "coupled", {"temperature": 1.0, "seed": 5}),
        ("confidence", "coupled", {"temperature": 0.8, "top_p": 0.9, "seed": 5}),
        ("fixed", "ratio", {"temperature": 1.0, "seed": 5}),
        ("adaedl", "block", {"temperature": 1.0, "seed": 6, "presence_penalty": 0.5}),
        ("adasd", "adasd", {}),
        ("fixed", "jsd", {"temperature": 1.0, "seed": 5}),
    ],
)
async def test_a_text_is_the_same_with_look_ahead(stop: str, accept: str, sampling: dict[str, Any]) -> None:
    async with services() as running:
        options = {"threshold": 0.3} if accept == "jsd" else {}
        rules = policy(stop, accept, max_tokens=4, **options)
        found = await running.complete([1, 2, 3], policy=rules, max_tokens=LENGTH, sampling=sampling)
        rules.look_ahead = 0
        without = await running.complete([1, 2, 3], policy=rules, max_tokens=LENGTH, sampling=sampling)
    report = found.finish.speculation
    assert found.token_ids == without.token_ids
    assert hits(report) > 0 and report.draft_failures == 0
    assert report.look_ahead.taken_tokens >= hits(report)
    assert hits(without.finish.speculation) == 0


async def test_many_completions_look_ahead_beside_each_other() -> None:
    async with services() as running:

        async def ask(seed: int, **more: Any) -> completion_pb2.CompleteOnceResponse:
            rules = policy("fixed", "coupled", max_tokens=3)
            for name, value in more.items():
                setattr(rules, name, value)
            sampling = {"temperature": 1.0, "seed": seed}
            return await running.complete([seed, 2], policy=rules, max_tokens=40, sampling=sampling)

        found = await asyncio.gather(*(ask(seed) for seed in range(12)))
        without = await asyncio.gather(*(ask(seed, look_ahead=0) for seed in range(12)))
        assert [each.token_ids for each in found] == [each.token_ids for each in without]
        assert sum(hits(each.finish.speculation) for each in found) > 0
        assert running.draft_engine is not None
        async with asyncio.timeout(20):  # nothing stays of the branches
            while running.draft_engine.load().cache_bytes:
                await asyncio.sleep(0.01)


async def test_lossless_in_distribution_where_chance_decides_how_long_blocks_are(monkeypatch: MonkeyPatch) -> None:
    """The rule `goodput` takes of a block what is there: how much that is must not depend on what was drawn."""

    def as_goodput(**learnt: Any) -> Learnt:
        return Learnt(**(learnt | {"may_shorten": True}))

    monkeypatch.setattr("orchestrator.request.Learnt", as_goodput)
    rules = policy("fixed", "ratio", max_tokens=3)
    reports = await check_pair_law(
        rules, samples=250, max_tokens=5, draft_limits=AHEAD, serve_target=LateTarget, look_ahead_branches=8
    )
    assert sum(map(hits, reports)) > 30
