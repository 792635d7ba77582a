"""Tandem: adaptive speculative decoding as three gRPC services. This package holds what they share, and clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    """The clients at their first use: the services import this package too, and do without them."""
    if name in ("AsyncClient", "Client"):
        from tandem import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
