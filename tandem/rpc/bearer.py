"""An API key as callers send it: `authorization: Bearer KEY`, in gRPC's metadata and in HTTP's header."""

from __future__ import annotations

HEADER = "authorization"

Metadata = tuple[tuple[str, str], ...]


def bearer(api_key: str | None) -> Metadata:
    """Metadata of a call; empty without a key. Raises ValueError for what no header can hold."""
    if api_key is None:
        return ()
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("the API key must be printable ASCII characters without a space")
    return ((HEADER, f"Bearer {api_key}"),)


def parse_bearer(header: str) -> str | None:
    """The key in a header; None where it is of another form."""
    scheme, _, api_key = header.strip().partition(" ")
    return api_key.strip() or None if scheme.lower() == "bearer" else None
