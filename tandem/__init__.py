"""Tandem: adaptive speculative decoding as three gRPC services. This package holds what they share."""

from __future__ import annotations

__version__ = "0.1.0"
