"""The file of API keys: what it holds, how it is read and written. `orchestrator/keys.py` decides who may call.

A key is `tdm_ID_SECRET`; the secret is 256 random bits. The file has only the SHA-256 of the key, without salt and
without the slow functions that passwords need: those make guessing dear, and nobody guesses 256 bits, however quick the
hash. A slow one would only make every request dear, those of attackers the most welcome.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

_PREFIX = "tdm"
_SECRET_BYTES = 32
_ID = r"[a-z0-9][a-z0-9-]{0,31}"
_KEY = re.compile(rf"{_PREFIX}_({_ID})_[A-Za-z0-9_-]{{43}}")


_Limit = Annotated[int, Field(ge=1)]


class KeyFileError(ValueError):
    """A file of keys cannot be used. problem: one line without the path."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.problem = problem


class KeyLimits(BaseModel):
    """What a key may use; None for no limit.

    concurrent: completions under way at once. tokens_per_minute: of prompts and generated ones together. max_tokens:
    that a request may ask for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    concurrent: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    max_tokens: _Limit | None = None


class KeyEntry(BaseModel):
    """One key. hash: of the whole key. expires, revoked: from when on it is refused; None for never."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=f"^{_ID}$")
    hash: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    limits: KeyLimits = KeyLimits()
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.hash.removeprefix("sha256:"))

    def state(self, now: datetime) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked is not None and now >= self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "valid"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _ids_differ(self) -> _File:
        ids = [entry.id for entry in self.keys]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"there are two keys with the id {twice[0]!r}")
        return self


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Raises KeyFileError."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise KeyFileError(path, f"cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        raise KeyFileError(path, f"{place}: {message}" if place else message) from error


def write_keys(path: Path, entries: Sequence[KeyEntry]) -> None:
    """At once or not at all, readable for its owner alone. Raises KeyFileError."""
    text = _File(keys=tuple(entries)).model_dump_json(indent=2, exclude_none=True) + "\n"
    try:
        # Created with mode 0600; in the same folder, so that it can take the other's place.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError, PermissionError):  # the service that reads it may be another user
                owner = os.stat(path)
                os.chown(name, owner.st_uid, owner.st_gid)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror or error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps others who change the file, by the same means, waiting. Raises KeyFileError."""
    import fcntl  # not for every system, and only for those who change the file

    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror or error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make_key(name: str | None, limits: KeyLimits, expires: datetime | None) -> tuple[str, KeyEntry]:
    """A new key, which is told here only, and its entry. name: its id; drawn where None. Raises ValueError."""
    name = secrets.token_hex(4) if name is None else name
    if re.fullmatch(_ID, name) is None:
        raise ValueError(f"{name!r} must be up to 32 lower-case letters, digits and dashes, and begin with no dash")
    key = f"{_PREFIX}_{name}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    entry = KeyEntry(
        id=name,
        hash=f"sha256:{digest_of(key).hex()}",
        limits=limits,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    return key, entry


def id_of(key: str) -> str | None:
    """None for what no key looks like."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
