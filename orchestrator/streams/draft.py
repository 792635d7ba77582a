"""A stream to a draft."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from orchestrator.answers import check_ahead, check_branch, check_draft_opened, check_drafted, check_rows
from orchestrator.look_ahead.foreseen import Base, Foreseen
from orchestrator.replicas import DRAFT
from orchestrator.streams.base import Stream
from orchestrator.streams.reading import Reading
from orchestrator.target_laws import Wants
from tandem.rpc.errors import TandemError
from tandem.v1 import block_pb2, draft_pb2, draft_pb2_grpc, model_pb2


class DraftStream(Stream[draft_pb2.DraftRequest]):
    """One sequence in a draft service."""

    service = DRAFT
    _entries = 0
    _model: model_pb2.ModelInfo | None = None

    @property
    def wants(self) -> Wants:
        """What it wants to be told of the target; before it has answered, what is known of its model."""
        model = self._model or self._expected
        return Wants(self._entries, model.fed_with.positions if model is not None else 0)

    def open(self, message: draft_pb2.DraftOpen) -> None:
        """Begins to connect and to send `message`; the first `round` waits for both and reads the answer."""
        self._start(draft_pb2_grpc.DraftServiceStub, "Draft")
        self._opened_with = message
        self._reading: Reading | None = None
        self._foreseen: Foreseen | None = None
        # Writing waits for the connection, and nobody should wait for a draft's before there is use for it.
        self._written = self._begin(self._write(draft_pb2.DraftRequest(open=message)))

    def foresees(self, foreseen: Foreseen) -> None:
        """From the next message on: what is said unasked goes there. Not while an answer is waited for."""
        assert self._call is not None
        self._foreseen = foreseen
        if self._reading is None:
            self._reading = Reading(self._call, self._take)

    async def round(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftedBlock:
        await self._written
        look_ahead = message.look_ahead if message.HasField("look_ahead") else None
        self._base(message.round, message.continuation, message.limits.max_tokens, look_ahead)
        await self._write(draft_pb2.DraftRequest(round=message))
        await self._read_opened()
        drafted: draft_pb2.DraftedBlock = await self._read("block")
        self._check(check_drafted, self._opened_with, message, drafted)
        return drafted

    def take(self, message: draft_pb2.DraftTaken) -> None:
        """Does not wait; what is said next is said after it. Needs `foresees`."""
        look_ahead = message.look_ahead if message.HasField("look_ahead") else None
        self._base(message.round, message.continuation, message.used, look_ahead)
        self._written = self._begin(self._after(self._written, draft_pb2.DraftRequest(taken=message)))

    async def rows(self, message: draft_pb2.DraftRows) -> draft_pb2.DraftedRows:
        await self._written
        await self._write(draft_pb2.DraftRequest(rows=message))
        rows: draft_pb2.DraftedRows = await self._read("rows")
        self._check(check_rows, self._opened_with, message, rows)
        return rows

    def close(self) -> None:
        if self._call is not None:
            self._written.cancel()
            if self._reading is not None:
                self._reading.close()
        super().close()

    def _base(
        self,
        round_number: int,
        continuation: block_pb2.Continuation,
        most_kept: int,
        look_ahead: draft_pb2.LookAhead | None,
    ) -> None:
        """Before it is written: what comes back may come at once."""
        if self._foreseen is None:
            return
        position = continuation.position + len(continuation.token_ids)
        if look_ahead is None:
            self._foreseen.begin(None)
        else:
            check = partial(self._check, check_branch, self._opened_with)
            self._foreseen.begin(Base(round_number, position, most_kept, look_ahead, check))

    @staticmethod
    def _begin(writing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(writing)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _after(self, written: asyncio.Task[None], request: draft_pb2.DraftRequest) -> None:
        await written
        await self._write(request)

    def _take_opened(self, opened: draft_pb2.DraftOpened) -> None:
        self._check(check_draft_opened, opened)
        self._entries, self._model = opened.target_entries, opened.model

    async def _receive(self) -> Any:
        return await (super()._receive() if self._reading is None else self._reading.next())

    def _take(self, response: draft_pb2.DraftResponse) -> bool:
        if response.WhichOneof("kind") != "ahead":
            return False
        assert self._foreseen is not None
        try:
            self._check(check_ahead, self._foreseen, response.ahead)
        except TandemError:
            self._foreseen.begin(None)
            raise
        self._foreseen.add(response.ahead)
        return True
