"""DraftService: one stream is one sequence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc

from draft_service.drafters.base import Drafter, SequenceSpec
from draft_service.pushing import Pushers
from draft_service.stream import DraftStream
from tandem.faults import reported
from tandem.grammars import Grammars
from tandem.progress import Progress
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_handshake
from tandem.telemetry.services import ModelTelemetry
from tandem.v1 import draft_pb2, draft_pb2_grpc, sampling_pb2
from tandem.wire import (
    check_opening,
    constraint,
    load_message,
    noise_stream,
    sampling_params,
)

_NO_VOCABULARY = 2**32
# Tokens of a text for which a draft keeps the place: beyond its own context the target may go on for long.
_MOST_TOKENS = 1 << 20


class DraftServicer(draft_pb2_grpc.DraftServiceServicer):
    """Serves one drafter."""

    def __init__(
        self, drafter: Drafter, grammars: Grammars | None = None, telemetry: ModelTelemetry | None = None
    ) -> None:
        """grammars: of the drafter's tokenizer; None where it has none. telemetry: its own where there is none."""
        self._drafter = drafter
        self._grammars = grammars
        self._telemetry = telemetry or ModelTelemetry("draft")
        self._telemetry.serves(drafter.info, drafter.load)
        if self._telemetry.is_read:
            drafter.observe(self._telemetry)
        self._stale_messages = 0
        self._pushers = Pushers()

    async def Draft(
        self, request_iterator: AsyncIterator[draft_pb2.DraftRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[draft_pb2.DraftResponse]:
        first = await anext(request_iterator, None)
        if first is None:
            return
        if first.WhichOneof("kind") != "open":
            raise TandemError.unexpected_message("the first message of a stream must be `open`")
        with self._telemetry.session(first.open.request_id) as session, reported("draft"):
            check_handshake(first.open.handshake, self._drafter.info, side="draft")
            spec = await self._spec(first.open, context.time_remaining())
            sequence = await self._drafter.open(spec)
            session.opened()
            try:
                entries, info = self._drafter.target_entries, self._drafter.info
                opened = draft_pb2.DraftOpened(model=info, target_entries=entries)
                yield draft_pb2.DraftResponse(opened=opened)
                progress = Progress(
                    list(spec.tokens), self._vocabulary_size, self._most_tokens, spec.prompt_length
                )
                stream = DraftStream(
                    sequence, progress, session, self._count_stale, self._pushers,
                    entries, info.fed_with.features.width,
                )  # fmt: skip
                async with aclosing(stream.responses(request_iterator)) as responses:
                    async for response in responses:
                        yield response
            finally:
                await sequence.close()

    @property
    def _vocabulary_size(self) -> int:
        return self._drafter.info.vocabulary_size or _NO_VOCABULARY

    @property
    def _most_tokens(self) -> int:
        return max(self._drafter.info.context_length, _MOST_TOKENS)

    async def _spec(self, message: draft_pb2.DraftOpen, within: float | None) -> SequenceSpec:
        if (size := len(message.prompt_token_ids)) > self._most_tokens:
            raise TandemError.prompt_too_long(size, self._most_tokens, field="open.prompt_token_ids")
        check_opening(message, path="open", vocabulary_size=self._vocabulary_size)
        rule = message.verification
        sampled = rule in (sampling_pb2.VERIFICATION_RULE_RATIO, sampling_pb2.VERIFICATION_RULE_BLOCK)
        if sampled and not message.format.max_entries:
            raise TandemError.invalid_field("open.format.max_entries", "must be at least 1 under ratio and block")
        return SequenceSpec(
            tokens=tuple(message.prompt_token_ids),
            prompt_length=message.prompt_length or len(message.prompt_token_ids),
            sampling=sampling_params(message.sampling),
            verification=rule,
            noise=noise_stream(message.random_key, path="open.random_key"),
            stop_token_ids=frozenset(message.stop_token_ids),
            max_entries=message.format.max_entries,
            mass=message.format.mass or 1.0,
            constraint=await constraint(message, self._grammars, path="open"),
            priority=message.priority,
            within=within,
        )

    def _count_stale(self) -> None:
        self._stale_messages += 1

    async def GetDraftModel(
        self, request: draft_pb2.GetDraftModelRequest, context: grpc.aio.ServicerContext
    ) -> draft_pb2.GetDraftModelResponse:
        return draft_pb2.GetDraftModelResponse(model=self._drafter.info)

    async def GetDraftLoad(
        self, request: draft_pb2.GetDraftLoadRequest, context: grpc.aio.ServicerContext
    ) -> draft_pb2.GetDraftLoadResponse:
        load = load_message(self._drafter.load())
        return draft_pb2.GetDraftLoadResponse(
            load=load,
            stale_messages=self._stale_messages,
            ahead_tokens=self._drafter.counts.drawn,
            ahead_tokens_taken=self._drafter.counts.taken,
        )
