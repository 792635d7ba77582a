from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """For `configure_logging`; what it changes is undone."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level, warnings.showwarning
    for handler in kept[0]:
        root.removeHandler(handler)  # pytest's own, which `force` would close
    yield io.StringIO()
    logging.captureWarnings(False)
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in kept[0]:
        root.addHandler(handler)
    root.setLevel(kept[1])
    warnings.showwarning = kept[2]
    for package in ("tandem", "draft_service", "target_service", "orchestrator", "__main__"):
        logging.getLogger(package).setLevel(logging.NOTSET)
