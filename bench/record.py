"""What a run of a bench leaves behind: one JSON document, from which `bench report` draws."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.goals import Row
from bench.machine import commit, describe_machine


def check_writable(path: Path) -> None:
    """Before minutes are spent on what could not be kept. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def write_json(
    path: Path,
    bench: str,
    rows: Iterable[Row] = (),
    *,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
    data: Any = None,
) -> None:
    """quick: whether the figures are rough. options: what was asked for. data: what the figures were made of, as JSON
    values; each bench says in which form. Raises OSError."""
    document = {
        "bench": bench,
        "machine": describe_machine(),
        "commit": commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rough": quick,
        "options": dict(options or {}),
        "rows": [_entry(row) for row in rows],
        "data": data,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A document of `write_json`. Raises OSError, or ValueError naming the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not {"bench", "machine", "commit", "rows", "data"} <= document.keys():
        raise ValueError(f"{path} was not written by a bench's --json")
    return document


def _entry(row: Row) -> dict[str, Any]:
    figure, goal = row.figure, row.goal
    measured = figure.measured if figure.measured is not None and math.isfinite(figure.measured) else None
    return {
        "name": figure.name,
        "what": goal.what if goal else row.what,
        "measured": measured,
        "spread": list(figure.spread) if figure.spread else None,
        "interval": [figure.interval.low, figure.interval.high] if figure.interval else None,
        "goal": goal.goal if goal else None,
        "direction": goal.direction if goal else None,
        "verdict": row.verdict.value or None,
        "outcome": figure.outcome.value,
        "note": figure.note,
    }
