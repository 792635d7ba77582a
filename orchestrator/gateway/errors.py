"""Errors as OpenAI's bodies have them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import grpc
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tandem.rpc.errors import UNSPECIFIED, TandemError

_log = logging.getLogger(__name__)

#: Status of a caller that left before it had an answer; nobody sees it but the metrics.
CALLER_GONE = 499

_STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    # Draft, target and orchestrator do not fit each other: no request can change that.
    grpc.StatusCode.FAILED_PRECONDITION: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

#: What OpenAI calls a reason, where clients look for it.
_CODES: Mapping[str, str] = MappingProxyType({"UNAUTHENTICATED": "invalid_api_key"})


class HttpError(Exception):
    """An answer that is an error. retry_after: seconds after which trying again may help; None where it will not."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @classmethod
    def invalid(cls, param: str | None, message: str) -> HttpError:
        """A field has a value that it may not have; without `param`, the body as a whole is at fault."""
        return cls(400, message if param is None else f"{param}: {message}", code="invalid_field", param=param)

    @classmethod
    def unsupported(cls, param: str, message: str) -> HttpError:
        return cls(400, f"{param}: {message}", code="not_supported", param=param)

    @classmethod
    def of(cls, error: TandemError) -> HttpError:
        """As it is, with the path of the field as gRPC callers know it."""
        reason = error.code.name if error.reason == UNSPECIFIED else error.reason
        return cls(
            _STATUSES.get(error.code, 500),
            error.message,
            code=_CODES.get(reason, reason.lower()),
            param=error.field,
            retry_after=error.retry_after,
        )

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Json(self.body(), status_code=self.status, headers=headers)


class Json(JSONResponse):
    """JSON that holds whatever a message of protobuf can hold; characters as they are."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


def explain(error: Exception, where: str) -> HttpError:
    """What to say of an error; one that nobody expected is logged with its trace. where: the route."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, TandemError):
        if error.code is grpc.StatusCode.INTERNAL:
            _log.error("%s: %s", where, error, exc_info=error)
        return HttpError.of(error)
    _log.error("%s: unexpected error", where, exc_info=error)
    return HttpError.of(TandemError.internal())


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    return explain(error, request.url.path).response()


async def answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the router says: no such path, not by this method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    answer = HttpError(error.status_code, message, code=code).response()
    answer.headers.update(error.headers or {})
    return answer
