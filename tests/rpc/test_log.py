from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from tandem.log import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    for handler in kept[0]:
        root.removeHandler(handler)  # pytest's own, which `force` would close
    yield io.StringIO()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in kept[0]:
        root.addHandler(handler)
    root.setLevel(kept[1])
    for package in ("tandem", "draft_service", "target_service", "orchestrator", "__main__"):
        logging.getLogger(package).setLevel(logging.NOTSET)


def test_a_line_names_service_level_and_message(stream: io.StringIO) -> None:
    configure_logging("draft", "info", stream=stream)
    logging.getLogger("tandem.rpc.server").info("listening on %s", "127.0.0.1:7001")
    assert stream.getvalue().split()[2:] == ["draft", "INFO", "listening", "on", "127.0.0.1:7001"]


def test_what_a_caller_sent_cannot_break_the_line(stream: io.StringIO) -> None:
    configure_logging("draft", "info", stream=stream)
    logging.getLogger("draft_service").info("request %s", "a\nb\r")
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("request a\\nb\\r\n")


def test_libraries_are_quiet_and_ours_obey_the_level(stream: io.StringIO) -> None:
    configure_logging("target", "debug", stream=stream)
    logging.getLogger("some_library").info("chatter")
    logging.getLogger("target_service.server").debug("detail")
    configure_logging("target", "error", stream=stream)
    logging.getLogger("target_service.server").warning("quiet")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["detail"]
