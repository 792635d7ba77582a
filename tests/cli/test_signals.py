"""Signals at the moments where they would do harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.cli.client import Client
from tandem.cli.signals import signals_wait, termination_unwinds
from tandem.v1 import completion_pb2

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_takes_effect_after_what_it_must_not_interrupt() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with signals_wait(meanwhile=lambda: done.append("told")):
            interrupt()
            done.append("whole")
        done.append("never")
    assert done == ["told", "whole"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_unwinds_with_the_code_of_its_signal(number: signal.Signals) -> None:
    done = []
    with pytest.raises(SystemExit) as exited, termination_unwinds():
        try:
            interrupt(number)
        finally:
            done.append("put in order")
    assert (exited.value.code, done) == (128 + number, ["put in order"])


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_unwinds(), signals_wait():
            interrupt(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class HalfBegun:
    """A call that Ctrl-C meets while it begins: gRPC waits for ever for one that did not get to its end."""

    def __init__(self) -> None:
        self.cancelled = False

    def __call__(self, *_: object, **__: object) -> HalfBegun:
        interrupt()
        self.begun = True
        return self

    future = __call__

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("method", ["Complete", "GetModels"])
def test_a_call_begins_whole_or_not_at_all_and_is_cancelled(method: str) -> None:
    call = HalfBegun()
    client: Any = Client("127.0.0.1:1")
    client._stubs = {"127.0.0.1:1": SimpleNamespace(**{method: call})}
    with pytest.raises(KeyboardInterrupt):
        if method == "Complete":
            list(client.complete(completion_pb2.CompleteRequest()))
        else:
            client.models()
    client.close()
    assert call.begun and call.cancelled
