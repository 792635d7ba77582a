"""Logs of a service on stderr, a line per event: to be read by people, or JSON for programs.

Every line that is written while a request is worked for names it. What is logged with `extra={...}` are fields of the
line; `telemetry/fields.py` has them all. Lines of libraries go the same way.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from structlog.processors import JSONRenderer, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.types import Processor

from tandem.native import native_lines_are_logged
from tandem.telemetry.context import request_id

Format = Literal["console", "json"]
_Event = MutableMapping[str, Any]

# Of records, besides what logging itself has: left by other formatters, and uvicorn's message with colours.
_NO_FIELDS = ("message", "asctime", "color_message")


def configure_logging(
    service: str, level: str = "info", format: Format = "console", *, stream: TextIO | None = None
) -> None:
    """Sends all logs of this process, each line named by `service`, to stderr.

    level: `debug`, `info`, `warning` or `error`. Libraries are heard from `warning` on.
    Calling it again replaces what was configured. stream: instead of stderr.
    """
    if stream is None:
        stream = native_lines_are_logged() if format == "json" else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_json(service) if format == "json" else _console(service))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # Off first: it takes itself to be on where somebody has put `warnings.showwarning` back since.
    logging.captureWarnings(False)
    logging.captureWarnings(True)
    for package in ("tandem", "draft_service", "target_service", "orchestrator", "__main__"):
        logging.getLogger(package).setLevel(level.upper())


def _console(service: str) -> ProcessorFormatter:
    """Time, service, level, message, then fields; traces below it, as Python prints them."""

    def line(logger: Any, method: str, event: _Event) -> str:
        record = event.pop("_record")
        event.pop("_from_structlog")
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        told = [f"{when} {service:<12} {record.levelname:<7} {event.pop('event')}"]
        told += [f"{key}={value}" for key, value in event.items() if key not in ("exc_info", "stack_info")]
        # What a caller sent may hold breaks.
        return " ".join(told).replace("\r", "\\r").replace("\n", "\\n")

    return _formatter(line, keeps_traces=True)


def _json(service: str) -> ProcessorFormatter:
    def ordered(logger: Any, method: str, event: _Event) -> _Event:
        record = event.pop("_record")
        event.pop("_from_structlog")
        return {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "service": service,
            "logger": record.name,
            **event,
        }

    return _formatter(format_exc_info, ordered, JSONRenderer())


def _formatter(*processors: Processor, keeps_traces: bool = False) -> ProcessorFormatter:
    """keeps_traces: for logging itself, which prints them below the line."""
    return ProcessorFormatter(
        processors=processors,
        foreign_pre_chain=[_with_request, ExtraAdder(), _without],
        keep_exc_info=keeps_traces,
        keep_stack_info=keeps_traces,
    )


def _with_request(logger: Any, method: str, event: _Event) -> _Event:
    name = request_id()
    if name:
        event["request_id"] = name
    return event


def _without(logger: Any, method: str, event: _Event) -> _Event:
    for key in _NO_FIELDS:
        event.pop(key, None)
    return event
