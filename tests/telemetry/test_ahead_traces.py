"""What the draft does unasked while the target verifies can be seen in the trace, beside the verification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from draft_service.server import DraftServicer
from tandem.inference.engine import EngineLimits
from tandem.v1 import draft_pb2
from tests.support.foreseeing import Foresight, PatientTarget, known
from tests.support.trio import make_request, policy
from tests.telemetry.receiver import Receiver, Seen
from tests.telemetry.test_traces import SAMPLED, Traced, attribute, check_tree, finished, traced


class TellingDraft(DraftServicer):
    """Says when something of a round has come ahead, so that the target can wait for it. Needs `foresight`."""

    foresight: Foresight

    async def Draft(  # noqa: N802
        self, request_iterator: AsyncIterator[draft_pb2.DraftRequest], context: Any
    ) -> AsyncGenerator[draft_pb2.DraftResponse]:
        opened = ""

        async def requests() -> AsyncGenerator[draft_pb2.DraftRequest]:
            nonlocal opened
            async for request in request_iterator:
                if request.HasField("open"):
                    opened = request.open.request_id
                elif request.WhichOneof("kind") in ("round", "taken"):
                    message = getattr(request, request.WhichOneof("kind"))
                    if not message.look_ahead.max_branches:
                        self.foresight.done(opened, message.round)  # nothing is to come
                yield request

        async for response in super().Draft(requests(), context):
            yield response
            if response.HasField("ahead"):
                self.foresight.done(opened, response.ahead.round)


class Held(Foresight):
    """The target stands still at the third round, with something ahead of it."""

    def __init__(self) -> None:
        super().__init__(known())
        self.round = 0
        self.is_held = asyncio.Event()

    async def until(self, request_id: str, round_number: int) -> None:
        await super().until(request_id, round_number)
        if round_number >= 3:
            self.round = round_number
            self.is_held.set()
            await asyncio.Event().wait()


def patiently(foresight: Foresight) -> dict[str, Any]:
    """For `trio`: a target that answers a block once the draft has begun to say what may come next."""

    def make(servicer: type[Any]) -> Any:
        def serve(*arguments: Any) -> Any:
            served = servicer(*arguments)
            served.foresight = foresight
            return served

        return serve

    return {"serve_draft": make(TellingDraft), "serve_target": make(PatientTarget)}


async def spans_of(running: Traced, **fields: Any) -> tuple[Receiver, Any]:
    request = make_request([1, 2, 3], speculation=policy("fixed", max_tokens=3), max_tokens=40, **fields)
    finish = await running.ask(request, ("traceparent", SAMPLED))
    return await finished(running), finish


def by_round(spans: list[Seen]) -> dict[int, Seen]:
    found = {int(attribute(span, "round")): span for span in spans}
    assert len(found) == len(spans)
    return found


async def test_the_timeline_of_a_round_shows_what_is_drafted_ahead() -> None:
    async with traced(draft_limits=EngineLimits(ahead_rows=16), **patiently(Foresight(known()))) as running:
        found, finish = await spans_of(running)
    check_tree(found)
    known_spans, ahead = found.by_id(), by_round(found.named("tandem.draft.ahead"))
    (stream,) = found.named("tandem.draft.stream")
    assert {span.parent for span in ahead.values()} == {stream.id}
    verified = {
        attribute(known_spans[span.parent], "round"): span
        for span in found.named("tandem.verify")
        if known_spans[span.parent].name == "tandem.round"
    }
    assert len(ahead) > 3
    for number, span in ahead.items():
        assert span.began < verified[number].ended and verified[number].began < span.ended
        assert 0 < attribute(span, "branches") <= 16 and attribute(span, "ahead_tokens") >= 0
    # A block that was there has no span of its own: what it was drafted in is that of the round before.
    rounds = by_round([span for span in found.named("tandem.round") if "tandem.accepted_tokens" in span.attributes])
    taken = {number + 1 for number, span in ahead.items() if attribute(span, "taken")}
    assert taken == {number for number, span in rounds.items() if span.attributes.get("tandem.foreseen")}
    asked = by_round(found.named("tandem.draft.block"))
    assert taken.isdisjoint(asked) and taken | asked.keys() >= rounds.keys()
    report = finish.speculation.look_ahead
    assert len(taken) == report.hits_all_kept + report.hits_rejected > 0
    # What was sent was drafted, and some that was drafted was not sent any more.
    assert sum(int(attribute(span, "ahead_tokens")) for span in ahead.values()) >= report.pushed_tokens > 0


async def test_a_draft_that_drafts_nothing_ahead_has_no_span_of_it() -> None:
    async with traced(draft_limits=EngineLimits(ahead_rows=0)) as running:
        found, _ = await spans_of(running)
    check_tree(found)
    assert found.named("tandem.draft.block") and not found.named("tandem.draft.ahead")


async def test_what_is_drafted_ahead_of_a_last_block_ends_with_the_stream() -> None:
    """Its caller leaves while the target verifies: nobody says what became of the block."""
    held = Held()
    async with traced(draft_limits=EngineLimits(ahead_rows=16), **patiently(held)) as running:
        request = make_request([1, 2, 3], speculation=policy("fixed", max_tokens=3), max_tokens=40)
        call = running.services.stub.Complete(request, timeout=60.0, metadata=[("traceparent", SAMPLED)])
        await held.is_held.wait()
        call.cancel()
        found = await finished(running)
    (completion,) = found.named("tandem.completion")
    assert attribute(completion, "outcome") == "cancelled"
    (stream,) = found.named("tandem.draft.stream")
    ahead = by_round(found.named("tandem.draft.ahead"))
    last = ahead[max(ahead)]
    assert not attribute(last, "taken") and last.parent == stream.id and last.ended <= stream.ended
    assert attribute(last, "round") == held.round
