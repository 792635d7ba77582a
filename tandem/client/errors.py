"""What a caller catches. All are TandemError, with `reason`, `field`, `code`, `metadata` and `retry_after`."""

from __future__ import annotations

import grpc

from tandem.rpc.credentials import handshake_problem
from tandem.rpc.errors import UNSPECIFIED, TandemError


class BadInputError(TandemError, ValueError):
    """The request cannot be served as it is; `field` names what is wrong. Trying again does not help."""


class BusyError(TandemError):
    """There is no room now; `retry_after` says in how many seconds there may be, None that this will never fit."""


class UnavailableError(TandemError):
    """No orchestrator answers, it is shutting down, it has no target, or the connection was lost."""


class DeadlineError(TandemError, TimeoutError):
    """It was not done within its timeout."""


class AccessError(TandemError, PermissionError):
    """The API key is missing, not known or no longer valid, or does not allow what was asked for."""


_KINDS: dict[grpc.StatusCode, type[TandemError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInputError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
}


def explained(error: grpc.RpcError, endpoint: str) -> TandemError:
    """The error that the orchestrator raised, or what is known of one that it did not raise itself."""
    kind = _KINDS.get(error.code(), TandemError)
    found = kind.from_rpc_error(error)
    if found.reason == "NOT_SUPPORTED":  # UNIMPLEMENTED is also what another server would say
        return BadInputError.from_rpc_error(error)
    if found.reason in (UNSPECIFIED, "DEADLINE_EXCEEDED"):  # whoever of the two notices it first
        found.message = f"{endpoint}: {handshake_problem(error) or _MEANINGS.get(found.code, found.message)}"
    return found


# Of codes that come without a reason: not from an orchestrator, but from what lies before it.
_MEANINGS = {
    grpc.StatusCode.UNIMPLEMENTED: "what answers is not an orchestrator",
    grpc.StatusCode.DEADLINE_EXCEEDED: "not done within the timeout",
}
