"""Logs of a service: one readable line per event, on stderr."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class _LineFormatter(logging.Formatter):
    """Keeps a message on its line (what a caller sent may hold breaks); traces stay as Python prints them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (name given by logging)
        record.message = record.message.replace("\r", "\\r").replace("\n", "\\n")
        return super().formatMessage(record)


def configure_logging(service: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Sends all logs of this process, each line named by `service`, to stderr.

    level: `debug`, `info`, `warning` or `error`. Libraries are heard from `warning` on.
    Calling it again replaces what was configured.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    layout = f"%(asctime)s {service:<12} %(levelname)-7s %(message)s"
    handler.setFormatter(_LineFormatter(layout, datefmt="%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("tandem", "draft_service", "target_service", "orchestrator", "__main__"):
        logging.getLogger(package).setLevel(level.upper())
