"""The `tandem` command."""

from __future__ import annotations

from tandem.cli.app import main

__all__ = ["main"]
