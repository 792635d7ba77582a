"""Who may call, and how much: API keys of a file, looked at again when it changes.

A key that is revoked, or has expired, begins nothing more; what it has begun goes on to its end.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.quota import Quota
from tandem.keys import KeyEntry, KeyLimits, digest_of, id_of, read_keys
from tandem.rpc.bearer import parse_bearer
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2
from tandem.watched import Watched

#: What an unknown id is compared with, so that it costs the same as a known one.
_NOBODYS = bytes(32)

Refused = Callable[[str], None]


def _nobody_told(reason: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has made a request: its key's id, limits and use. refused: told which limit was reached."""

    id: str = ""
    limits: KeyLimits = KeyLimits()
    quota: Quota = field(default_factory=Quota)
    refused: Refused = _nobody_told

    @contextmanager
    def completing(self, request: completion_pb2.CompleteRequest, path: str) -> Iterator[None]:
        """While `request` is under way. path: before names of fields. Raises TandemError."""
        most = self.limits.max_tokens
        if most is not None and request.max_tokens > most:
            self.refused("max_tokens")
            told = f"this key may ask for at most {most}, not {request.max_tokens}"
            raise TandemError.permission_denied(told, field=f"{path}max_tokens")
        with ExitStack() as stack:
            with self._counted():
                stack.enter_context(self.quota.completions(max(1, request.n), self.limits))
            yield

    def take_prompt(self, tokens: int) -> None:
        """Raises TandemError where the key has too few tokens left."""
        with self._counted():
            self.quota.take_prompt(tokens, self.limits)

    def take_generated(self, tokens: int) -> None:
        self.quota.take_generated(tokens, self.limits)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except TandemError as error:
            if error.reason == "RATE_LIMIT_EXCEEDED":
                self.refused(error.metadata["limit"])
            raise


#: Who calls where there are no keys.
ANYONE = Caller()
#: Of the request that is being served, as the gRPC interceptor or the HTTP middleware has set it.
CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


class Keys:
    """The keys of a file."""

    def __init__(
        self, file: Path, refused: Refused = _nobody_told, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """refused: told why a key was, or which of its limits. Raises KeyFileError."""
        self._watched = Watched([file], lambda: {entry.id: entry for entry in read_keys(file)}, what="API keys")
        self._refused = refused
        self._clock = clock
        self._quotas: dict[str, Quota] = {}  # of keys that were used

    def caller(self, headers: list[str]) -> Caller:
        """headers: all that are called `authorization`. Raises TandemError UNAUTHENTICATED."""
        if not headers:
            raise self._refusal("missing", "an API key is needed: send the header authorization: Bearer KEY")
        key = parse_bearer(headers[0]) if len(headers) == 1 else None
        entry = self._entry(key or "")
        if entry is None:
            raise self._refusal("unknown", "the API key is not known")
        if (state := entry.state(datetime.now(UTC))) != "valid":
            raise self._refusal(state, f"the API key {'was' if state == 'revoked' else 'has'} {state}")
        quota = self._quotas.get(entry.id)
        if quota is None:
            quota = self._quotas[entry.id] = Quota(self._clock)
        return Caller(entry.id, entry.limits, quota, self._refused)

    def _entry(self, key: str) -> KeyEntry | None:
        """Whether there is such an id takes no other time to tell than whether the secret is right."""
        entry = self._watched.get().get(id_of(key) or "")
        expected = _NOBODYS if entry is None else entry.digest
        return entry if hmac.compare_digest(digest_of(key), expected) else None

    def _refusal(self, reason: str, message: str) -> TandemError:
        self._refused(reason)
        return TandemError.unauthenticated(message)
