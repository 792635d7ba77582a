"""A stream to a draft."""

from __future__ import annotations

import asyncio

from orchestrator.answers import check_drafted, check_rows
from orchestrator.replicas import DRAFT
from orchestrator.streams.base import Stream
from tandem.v1 import draft_pb2, draft_pb2_grpc


class DraftStream(Stream[draft_pb2.DraftRequest]):
    """One sequence in a draft service."""

    service = DRAFT

    def open(self, message: draft_pb2.DraftOpen) -> None:
        """Begins to connect and to send `message`; the first `round` waits for both and reads the answer."""
        self._start(draft_pb2_grpc.DraftServiceStub, "Draft")
        self._opened_with = message
        # Writing waits for the connection, and nobody should wait for a draft's before there is use for it.
        self._opening = asyncio.ensure_future(self._write(draft_pb2.DraftRequest(open=message)))
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def round(self, message: draft_pb2.DraftRound) -> draft_pb2.DraftedBlock:
        await self._opening
        await self._write(draft_pb2.DraftRequest(round=message))
        await self._read_opened()
        drafted: draft_pb2.DraftedBlock = await self._read("block")
        self._check(check_drafted, self._opened_with, message, drafted)
        return drafted

    async def rows(self, message: draft_pb2.DraftRows) -> draft_pb2.DraftedRows:
        await self._write(draft_pb2.DraftRequest(rows=message))
        rows: draft_pb2.DraftedRows = await self._read("rows")
        self._check(check_rows, self._opened_with, message, rows)
        return rows

    def close(self) -> None:
        if self._call is not None:
            self._opening.cancel()
        super().close()
