"""/healthz: whether the service can complete anything now."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Response

from orchestrator.completions import Completions
from orchestrator.gateway.connection import Gate
from orchestrator.gateway.errors import HttpError, Json
from tandem.rpc.errors import TandemError

#: Seconds for which an answer stands, however many ask.
_FRESH_SECONDS = 1.0


class Health:
    """Asks the target, once for all who ask meanwhile."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self._checked = 0.0
        self._check: asyncio.Task[TandemError | None] | None = None

    async def problem(self) -> TandemError | None:
        """Why nothing can be completed; None where all is well."""
        if self._check is None or (self._check.done() and time.monotonic() - self._checked > _FRESH_SECONDS):
            self._check = asyncio.create_task(self._ask())
        return await asyncio.shield(self._check)  # one who leaves does not end it for the others

    async def _ask(self) -> TandemError | None:
        try:
            await self._completions.check()
        except TandemError as error:
            return error
        finally:
            self._checked = time.monotonic()
        return None


def health_router(completions: Completions, gate: Gate) -> APIRouter:
    router = APIRouter(tags=["Operation"])
    health = Health(completions)

    @router.get("/healthz")
    async def healthz() -> Response:
        """200 where completions can be had; 503 and why where they cannot."""
        gate.check()
        problem = await health.problem()
        if problem is not None:
            error = HttpError.of(problem)
            error.status = 503
            raise error
        return Json({"status": "ok"})

    return router
