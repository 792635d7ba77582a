"""The two kinds of service that have replicas: how to ask one what it serves and how busy it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.rpc.credentials import handshake_problem
from tandem.rpc.errors import CODES, UNSPECIFIED, TandemError
from tandem.v1 import draft_pb2, draft_pb2_grpc, model_pb2, target_pb2, target_pb2_grpc

T = TypeVar("T")

#: Reasons for which a service does not take a sequence that another of its kind may take.
NOT_TAKEN = frozenset(
    {
        "TARGET_UNAVAILABLE", "DRAFT_UNAVAILABLE", "SHUTTING_DOWN", "OVERLOADED", "TOKENIZER_MISMATCH",
        "PROTOCOL_MISMATCH",
    }
)  # fmt: skip

# What a stream ends with that was broken off on its way, by gRPC on either side or by something between.
_BROKEN_OFF = (
    grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED
)  # fmt: skip


#: And reasons for which one that was at work on a sequence ends it: a defect, a device or a model that is broken. They
#: may lie with the sequence, so that only one other is asked.
BROKEN = frozenset({"INTERNAL", "NOT_FINITE", "OUT_OF_MEMORY"})

# Reasons that callers have to do with: what they asked for cannot be had here, or not now, or breaks a target.
_FOR_CALLERS = NOT_TAKEN | BROKEN | {"INVALID_FIELD", "PROMPT_TOO_LONG", "NOT_SUPPORTED", "DEADLINE_EXCEEDED"}
# Of what was sent, what callers or drafts have made.
_THEIR_FIELDS = ("open.", "round.block", "resolve.rows")
# What a stream is refused with before it has begun, and never later.
_AT_FIRST = {"TOKENIZER_MISMATCH", "PROTOCOL_MISMATCH", "PROMPT_TOO_LONG", "NOT_SUPPORTED"}


def is_for_callers(error: TandemError, *, has_begun: bool, is_late: bool) -> bool:
    """Whether an error of a stream may be passed on. Others are between the services: a defect of one of them, keys
    that it does not take, messages out of order. A caller can do nothing about them but try again.

    has_begun: whether the service had taken the stream. is_late: whether the caller's time is over."""
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return is_late
    if error.reason == UNSPECIFIED:  # gRPC's own: what was sent is larger than the service takes
        return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    if error.reason not in _FOR_CALLERS or error.code is not CODES[error.reason]:
        return False
    if has_begun and error.reason in _AT_FIRST:
        return False
    return error.reason != "INVALID_FIELD" or (error.field or "").startswith(_THEIR_FIELDS)


class NoMessageError(Exception):
    """An answer cannot be read."""


@dataclass(frozen=True, slots=True)
class Service:
    """name: `draft` or `target`. full_name: with its package. unavailable: reason of an error that means that it cannot
    be reached. model, load: each asks over a channel, with a timeout in seconds, and raises AioRpcError or
    NoMessageError."""

    name: str
    full_name: str
    unavailable: str
    model: Callable[[grpc.aio.Channel, float], Awaitable[model_pb2.ModelInfo]]
    load: Callable[[grpc.aio.Channel, float], Awaitable[model_pb2.Load]]

    async def is_serving(self, channel: grpc.aio.Channel, timeout: float) -> bool:
        """What it says of its own health: it may answer though its model is gone. Raises as `load`."""
        asked = health_pb2.HealthCheckRequest(service=self.full_name)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):  # it says nothing of it
                return True
            raise
        return bool(_read(answer).status == health_pb2.HealthCheckResponse.SERVING)

    def at(self, endpoint: str) -> str:
        """As messages name it."""
        return f"the {self.name} service at {endpoint}"

    def error(self, message: str) -> TandemError:
        """What a caller is told who cannot be served because of it."""
        return TandemError(self.unavailable, message, retry_after=1.0)

    def explain(self, error: grpc.aio.AioRpcError, endpoint: str, *, lost: bool = False) -> TandemError:
        """The service's own error; of a connection that failed, what it means to whoever reads it. lost: it had
        worked."""
        explained = TandemError.from_rpc_error(error, unavailable=self.unavailable)
        if explained.reason == UNSPECIFIED and explained.code in _BROKEN_OFF:
            return self.error(f"{self.at(endpoint)} broke the stream off: {explained.message}")
        if explained.reason == self.unavailable:
            problem = "was lost" if lost else "does not answer: is it running?"
            if tls := handshake_problem(error):
                problem = f"cannot be reached: {tls}"
            explained.message = f"{self.at(endpoint)} {problem}"
        return explained


def _read(answer: T | None) -> T:
    """Raises NoMessageError. gRPC gives None for bytes that it could not read."""
    if answer is None:
        raise NoMessageError("answered with bytes that are no message")
    return answer


async def _target_model(channel: grpc.aio.Channel, timeout: float) -> model_pb2.ModelInfo:
    stub = target_pb2_grpc.TargetServiceStub(channel)
    return _read(await stub.GetTargetModel(target_pb2.GetTargetModelRequest(), timeout=timeout)).model


async def _target_load(channel: grpc.aio.Channel, timeout: float) -> model_pb2.Load:
    stub = target_pb2_grpc.TargetServiceStub(channel)
    return _read(await stub.GetTargetLoad(target_pb2.GetTargetLoadRequest(), timeout=timeout)).load


async def _draft_model(channel: grpc.aio.Channel, timeout: float) -> model_pb2.ModelInfo:
    stub = draft_pb2_grpc.DraftServiceStub(channel)
    return _read(await stub.GetDraftModel(draft_pb2.GetDraftModelRequest(), timeout=timeout)).model


async def _draft_load(channel: grpc.aio.Channel, timeout: float) -> model_pb2.Load:
    stub = draft_pb2_grpc.DraftServiceStub(channel)
    return _read(await stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest(), timeout=timeout)).load


TARGET = Service("target", "tandem.v1.TargetService", "TARGET_UNAVAILABLE", _target_model, _target_load)
DRAFT = Service("draft", "tandem.v1.DraftService", "DRAFT_UNAVAILABLE", _draft_model, _draft_load)
