"""A draft may be killed, hang, or be slow in the middle of a completion: the text is the same, and speculation is taken
up again in the same completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tandem.v1 import completion_pb2
from tests.support.fleet import CONTEXT, Death, Fleet, Orchestrator, Service, fleet, until_idle
from tests.support.tiny import tiny_llama
from tests.support.trio import make_request, policy

FALLBACK = "tandem_fallback_tokens_total"
DRAFTED = (completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED, completion_pb2.TOKEN_SOURCE_DRAFT_ACCEPTED)
#: Far more than any of this takes; a completion is left once it has shown what it had to.
LENGTH = 12000


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


class Reader:
    """Of one completion that speculates. tokens: all that have come."""

    def __init__(self, orchestrator: Orchestrator, accept: str, length: int = LENGTH) -> None:
        self.tokens: list[completion_pb2.TokenAccount] = []
        self.finish: completion_pb2.Finish | None = None
        self.sampling = {"temperature": 0.0 if accept == "exact" else 1.0, "seed": 3}
        self._call = orchestrator.stub.Complete(
            make_request(
                [1, 2], speculation=policy("fixed", accept, max_tokens=3), max_tokens=length, audit=True,
                sampling=self.sampling,
            )
        )  # fmt: skip
        self._orchestrator = orchestrator

    async def until(self, reached: Callable[[list[completion_pb2.TokenAccount]], bool]) -> None:
        """Reads on until the tokens that have come from now on are as they should be."""
        start = len(self.tokens)
        async with asyncio.timeout(60):
            while not reached(self.tokens[start:]):
                response = await self._call.read()
                assert isinstance(response, completion_pb2.CompleteResponse), "the completion has ended before"
                self.tokens += response.tokens
                if response.HasField("finish"):
                    self.finish = response.finish

    async def leave_and_compare(self) -> None:
        """With what the target says alone."""
        self._call.cancel()
        alone = await self._orchestrator.complete(max_tokens=len(self.tokens), sampling=self.sampling)
        assert [token.token_id for token in self.tokens] == list(alone.token_ids)


def is_drafted(tokens: list[completion_pb2.TokenAccount]) -> bool:
    return sum(token.source in DRAFTED for token in tokens) >= 10


def is_alone(tokens: list[completion_pb2.TokenAccount]) -> bool:
    """A chunk at least, with no draft's token at the end."""
    return len(tokens) >= 8 and all(token.source == completion_pb2.TOKEN_SOURCE_TARGET for token in tokens[-8:])


async def _where_it_drafts(drafts: list[Service]) -> Service:
    async with asyncio.timeout(20):
        while True:
            for draft in drafts:
                if draft.engine.load().sequences:
                    return draft
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("accept", ["exact", "coupled"])
async def test_a_draft_that_is_killed_and_comes_back_drafts_again(made: Fleet, accept: str) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target, draft)
    reader = Reader(orchestrator, accept)
    await reader.until(is_drafted)
    for times in range(1, 3):
        await draft.kill()
        await reader.until(is_alone)
        await draft.come_back()
        await reader.until(is_drafted)
        assert draft.streams >= 1 + times
    assert orchestrator.metric(FALLBACK, reason="no_draft") > 0
    await reader.leave_and_compare()
    await until_idle(target, draft)


@pytest.mark.parametrize("accept", ["exact", "coupled"])
async def test_a_completion_that_began_without_a_draft_takes_up_one_that_comes(made: Fleet, accept: str) -> None:
    target, draft = await made.target(), await made.draft()
    await draft.kill()
    orchestrator = await made.orchestrator([target], [draft])
    await orchestrator.until(target)
    await orchestrator.until(draft, state="failed")
    reader = Reader(orchestrator, accept, 600)
    await reader.until(is_alone)
    await draft.come_back()
    await reader.until(is_drafted)
    await reader.until(lambda tokens: reader.finish is not None)
    assert reader.finish is not None
    report = reader.finish.speculation
    assert (report.accept_rule, report.draft_failures) == (accept, 1) and report.accepted_tokens > 0
    await reader.leave_and_compare()
    await until_idle(target, draft)


async def test_another_draft_takes_the_place_of_one_that_was_killed(made: Fleet) -> None:
    target, drafts = await made.target(), [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator([target], drafts)
    await orchestrator.until(target, *drafts)
    reader = Reader(orchestrator, "coupled", 400)
    await reader.until(is_drafted)
    at = await _where_it_drafts(drafts)
    other = drafts[1] if at is drafts[0] else drafts[0]
    assert other.streams == 0
    await at.kill()
    await reader.until(lambda tokens: other.streams > 0 and is_drafted(tokens))
    await reader.until(lambda tokens: reader.finish is not None)
    assert reader.finish is not None and reader.finish.speculation.draft_failures == 1
    assert reader.finish.usage.completion_tokens == 400
    await reader.leave_and_compare()
    await until_idle(target, *drafts)


@pytest.mark.parametrize("accept", ["exact", "coupled"])
async def test_a_draft_that_hangs_is_gone_on_without_and_used_once_it_answers(made: Fleet, accept: str) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft], draft_patience_seconds=0.05, draft_timeout_seconds=60)
    await orchestrator.until(target, draft)
    reader = Reader(orchestrator, accept)
    await reader.until(is_drafted)
    for _ in range(3):
        draft.hangs = True
        await reader.until(is_alone)
        draft.hangs = False
        await reader.until(is_drafted)
    assert orchestrator.metric(FALLBACK, reason="late") > 0 == orchestrator.metric(FALLBACK, reason="no_draft")
    assert draft.streams == 1
    await reader.leave_and_compare()
    await until_idle(target, draft)


async def test_a_draft_that_hangs_for_good_is_replaced(made: Fleet) -> None:
    target, drafts = await made.target(), [await made.draft() for _ in range(2)]
    orchestrator = await made.orchestrator(
        [target], drafts, draft_patience_seconds=0.05, draft_timeout_seconds=0.5
    )
    await orchestrator.until(target, *drafts)
    reader = Reader(orchestrator, "exact")
    await reader.until(is_drafted)
    at = await _where_it_drafts(drafts)
    at.hangs = True
    await reader.until(is_alone)
    await reader.until(is_drafted)
    assert drafts[0].streams + drafts[1].streams >= 2
    assert orchestrator.metric(FALLBACK, reason="late") > 0 < orchestrator.metric(FALLBACK, reason="no_draft")
    await reader.leave_and_compare()
    at.hangs = False
    await until_idle(target, *drafts)


async def test_a_draft_that_is_slower_than_the_target_is_left_alone_and_tried_again(made: Fleet) -> None:
    target, draft = await made.target(), await made.draft()
    orchestrator = await made.orchestrator([target], [draft], draft_patience_seconds=0.3)
    target.delay = 0.004
    await orchestrator.until(target, draft)
    reader = Reader(orchestrator, "exact")
    await reader.until(is_drafted)
    draft.delay = 0.15
    async with asyncio.timeout(60):
        while not orchestrator.metric(FALLBACK, reason="slow"):
            await reader.until(lambda tokens: len(tokens) > 0)
    # While it is slow few rounds have it, and fewer ever.
    asked = draft.answers
    await reader.until(lambda tokens: len(tokens) >= 400)
    assert draft.answers - asked <= 15
    draft.delay = 0.0
    await reader.until(is_drafted)
    await reader.until(lambda tokens: is_drafted(tokens[-16:]))
    assert orchestrator.metric(FALLBACK, reason="no_draft") == 0 and draft.streams == 1
    target.delay = 0.0
    await reader.leave_and_compare()
    await until_idle(target, draft)


@pytest.mark.parametrize("accept", ["jsd", "adasd"])
async def test_lossy_rules_go_on_without_a_draft_and_with_it_again(made: Fleet, accept: str) -> None:
    """Also where it is lost between a block and the full rows of it."""
    target = await made.target(tiny_llama(0, context=CONTEXT))
    draft = await made.draft(tiny_llama(0, noise=0.12, context=CONTEXT))
    orchestrator = await made.orchestrator([target], [draft], bracket_entries=8)
    await orchestrator.until(target, draft)
    threshold = {"threshold": 0.4} if accept == "jsd" else {}
    rules = policy("fixed", accept, max_tokens=3, **threshold)
    call = orchestrator.stub.Complete(make_request([5, 6, 7], speculation=rules, max_tokens=LENGTH, audit=True))
    draft.death = Death("rows", 1)
    sources: list[int] = []
    async with asyncio.timeout(60):
        while draft.death.victim is None:
            await call.read()
        while not (draft.engine.load().sequences == 0 and orchestrator.metric(FALLBACK, reason="no_draft") > 0):
            await call.read()
        await draft.come_back()
        while sum(source in DRAFTED for source in sources) < 10:
            sources += [token.source for token in (await call.read()).tokens]
    call.cancel()
    await until_idle(target, draft)
