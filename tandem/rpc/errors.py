"""The error catalogue of `tandem/v1/errors.proto` as one exception class.

Handlers raise `TandemError`; `interceptor.py` sends it as a gRPC status with `google.rpc` details, and
`TandemError.from_rpc_error` makes the same exception from that status again on the other side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tandem.v1.model_pb2 import ModelInfo

DOMAIN = "tandem"

#: Reason of an error that no Tandem handler made: transport, deadline, unknown method.
UNSPECIFIED = "UNSPECIFIED"

#: Seconds after which a caller may try again, where the one who raises knows no better.
DEFAULT_RETRY_SECONDS = 1.0

#: The status code of each reason, as errors.proto documents it.
CODES: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {
        "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
        "PROMPT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
        "NOT_SUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
        "PROTOCOL_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
        "TOKENIZER_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
        "PREFIX_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
        "UNEXPECTED_MESSAGE": grpc.StatusCode.FAILED_PRECONDITION,
        "TARGET_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
        "DRAFT_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
        "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
        "INTERNAL": grpc.StatusCode.INTERNAL,
        "OUT_OF_MEMORY": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "NOT_FINITE": grpc.StatusCode.DATA_LOSS,
        "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
        "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
        "RATE_LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)

# A status travels in HTTP/2 trailers, which peers cut off at 8 KiB: what a caller sent may be quoted, but
# not at any length. Non-ASCII bytes take three in the trailer.
_MESSAGE_BYTES = 600
_METADATA_BYTES = 200
_MOST_METADATA = 8
# What another says of an error may be anything. Reasons are names, and nobody waits longer than a day.
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_MOST_RETRY_SECONDS = 86400.0


class TandemError(Exception):
    """One error of the catalogue.

    reason: name in `ErrorReason` without its prefix, or `UNSPECIFIED` for an error from elsewhere.
    field: path of the field at fault, as `sampling.top_p`; None where no single field is.
    metadata: facts for programs; strings only.
    retry_after: seconds after which trying again may help; None where it will not.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.code = CODES[reason] if code is None else code
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        """For callers with a pool of processes."""
        rest = {"code": self.code, "field": self.field, "metadata": self.metadata, "retry_after": self.retry_after}
        return partial(type(self), **rest), (self.reason, self.message)

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"

    # One constructor per entry of the catalogue, in its order.

    @classmethod
    def invalid_field(cls, field: str, message: str) -> Self:
        return cls("INVALID_FIELD", f"{field}: {message}", field=field)

    @classmethod
    def prompt_too_long(cls, prompt_tokens: int, context_length: int, *, field: str = "prompt") -> Self:
        return cls(
            "PROMPT_TOO_LONG",
            f"the prompt of {prompt_tokens} tokens and one more exceed the context of {context_length}",
            field=field,
            metadata={"prompt_tokens": str(prompt_tokens), "context_length": str(context_length)},
        )

    @classmethod
    def prompt_over_limit(cls, prompt_tokens: int, most: int, *, field: str = "prompt") -> Self:
        """The same of a server that takes fewer tokens than its model could."""
        return cls(
            "PROMPT_TOO_LONG",
            f"the prompt of {prompt_tokens} tokens exceeds the {most} that this server takes (--max-prompt-tokens)",
            field=field,
            metadata={"prompt_tokens": str(prompt_tokens), "max_prompt_tokens": str(most)},
        )

    @classmethod
    def not_supported(cls, field: str, message: str) -> Self:
        return cls("NOT_SUPPORTED", f"{field}: {message}", field=field)

    @classmethod
    def protocol_mismatch(cls, theirs: int, ours: int) -> Self:
        return cls(
            "PROTOCOL_MISMATCH",
            f"the caller speaks protocol version {theirs}, this service speaks {ours}",
            metadata={"caller_version": str(theirs), "service_version": str(ours)},
        )

    @classmethod
    def tokenizer_mismatch(cls, draft: ModelInfo, target: ModelInfo) -> Self:
        return cls(
            "TOKENIZER_MISMATCH",
            f"draft {_describe(draft)} and target {_describe(target)} cannot work on one sequence:"
            " their tokenizers or vocabularies differ; a draft of another family is started with --for-target",
            metadata={**_facts("draft", draft), **_facts("target", target)},
        )

    @classmethod
    def prefix_mismatch(cls, message: str, *, expected: int, received: int) -> Self:
        """expected, received: absolute positions."""
        return cls(
            "PREFIX_MISMATCH",
            f"{message}: expected position {expected}, received {received}",
            metadata={"expected_position": str(expected), "received_position": str(received)},
        )

    @classmethod
    def unexpected_message(cls, message: str) -> Self:
        return cls("UNEXPECTED_MESSAGE", message)

    @classmethod
    def target_unavailable(cls, message: str, *, retry_after: float = DEFAULT_RETRY_SECONDS) -> Self:
        return cls("TARGET_UNAVAILABLE", message, retry_after=retry_after)

    @classmethod
    def draft_unavailable(cls, message: str, *, retry_after: float = DEFAULT_RETRY_SECONDS) -> Self:
        return cls("DRAFT_UNAVAILABLE", message, retry_after=retry_after)

    @classmethod
    def overloaded(
        cls, message: str, *, retry_after: float = DEFAULT_RETRY_SECONDS, metadata: Mapping[str, str] | None = None
    ) -> Self:
        return cls("OVERLOADED", message, retry_after=retry_after, metadata=metadata)

    @classmethod
    def shutting_down(cls, *, retry_after: float = DEFAULT_RETRY_SECONDS) -> Self:
        return cls(
            "SHUTTING_DOWN", "the service is shutting down; try another replica", retry_after=retry_after
        )

    @classmethod
    def internal(cls, message: str = "a defect in Tandem; the service's log has the trace") -> Self:
        return cls("INTERNAL", message)

    @classmethod
    def out_of_memory(cls, message: str) -> Self:
        return cls("OUT_OF_MEMORY", message)

    @classmethod
    def not_finite(cls, message: str = "the model answered with numbers that are not finite") -> Self:
        return cls("NOT_FINITE", message)

    @classmethod
    def unauthenticated(cls, message: str) -> Self:
        return cls("UNAUTHENTICATED", message)

    @classmethod
    def permission_denied(cls, message: str, *, field: str | None = None) -> Self:
        return cls("PERMISSION_DENIED", message if field is None else f"{field}: {message}", field=field)

    @classmethod
    def rate_limit_exceeded(cls, limit: str, allowed: int, message: str, *, retry_after: float | None) -> Self:
        """limit: which of the key's; allowed: its value. retry_after: None where waiting does not help."""
        metadata = {"limit": limit, "allowed": str(allowed)}
        return cls("RATE_LIMIT_EXCEEDED", message, metadata=metadata, retry_after=retry_after)

    @classmethod
    def deadline_exceeded(cls, message: str = "not done within the time that the caller gave") -> Self:
        return cls("DEADLINE_EXCEEDED", message)

    # The wire.

    def to_status(self) -> grpc.Status:
        """The status to abort an RPC with; `google.rpc` details as errors.proto promises."""
        message = _cut(self.message, _MESSAGE_BYTES)
        status = status_pb2.Status(code=self.code.value[0], message=message)
        if self.reason != UNSPECIFIED:
            found = list(self.metadata.items())[:_MOST_METADATA]
            facts = {_cut(key, _METADATA_BYTES): _cut(value, _METADATA_BYTES) for key, value in found}
            _attach(status, error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=facts))
        if self.field is not None:
            field = _cut(self.field, _METADATA_BYTES)
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
            _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromMicroseconds(round(self.retry_after * 1e6))
            _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
        return rpc_status.to_status(status)

    @classmethod
    def from_rpc_error(cls, error: grpc.aio.AioRpcError, *, unavailable: str = UNSPECIFIED) -> Self:
        """The error that the other side raised, or what is known of one that it did not raise itself.

        unavailable: reason for an UNAVAILABLE without details (a refused or lost connection); the caller
        knows whether it spoke to a draft or a target. Any other status without details has reason
        `UNSPECIFIED`.
        """
        code, message = error.code(), error.details() or error.code().name
        info, field, retry_after = _read_details(error)
        if info is not None:
            return cls(
                info.reason, message, code=code, field=field, metadata=info.metadata, retry_after=retry_after
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            return cls(unavailable, message, code=code, retry_after=retry_after or DEFAULT_RETRY_SECONDS)
        return cls(UNSPECIFIED, message, code=code, field=field, retry_after=retry_after)


def _read_details(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, str | None, float | None]:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            try:
                status.ParseFromString(value)
            except DecodeError:  # from something between us and the service; the bare status is still good
                return None, None, None
    info, field, retry_after = None, None, None
    for detail in status.details:
        error_info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        try:
            if detail.Unpack(error_info) and error_info.domain == DOMAIN and _REASON.fullmatch(error_info.reason):
                info = error_info
            elif detail.Unpack(bad_request) and bad_request.field_violations:
                field = bad_request.field_violations[0].field
            elif detail.Unpack(retry_info):
                delay = retry_info.retry_delay.seconds + retry_info.retry_delay.nanos / 1e9
                retry_after = min(max(delay, 0.0), _MOST_RETRY_SECONDS)
        except DecodeError:  # the name of one message, and the bytes of another
            continue
    return info, field, retry_after


def _attach(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _describe(model: ModelInfo) -> str:
    fingerprint = model.tokenizer_fingerprint[:12] or "none"
    own = model.intersection.own_tokenizer_fingerprint[:12]
    translated = f", translated from its own {own}" if own else ""
    return f"{model.model_id or 'unnamed'} (tokenizer {fingerprint}{translated}, {model.vocabulary_size} tokens)"


def _facts(side: str, model: ModelInfo) -> dict[str, str]:
    return {
        f"{side}_model_id": model.model_id,
        f"{side}_revision": model.revision,
        f"{side}_tokenizer_fingerprint": model.tokenizer_fingerprint,
        f"{side}_vocabulary_size": str(model.vocabulary_size),
    }


def _cut(text: str, size: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "…"
