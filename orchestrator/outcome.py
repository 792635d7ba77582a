"""One line of the log for each completion, and the end of its span, however it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.account import Account
from orchestrator.deadline import DEADLINE
from orchestrator.request import Plan
from orchestrator.watch import Watch
from tandem.telemetry.upstream import reason_of
from tandem.v1 import completion_pb2

_log = logging.getLogger(__name__)

_REASONS = {completion_pb2.FINISH_REASON_STOP: "stop", completion_pb2.FINISH_REASON_LENGTH: "length"}
_EVENTS = {"stop": "completed", "length": "completed", "cancelled": "cancelled"}


@dataclass(slots=True)
class Outcome:
    """finish: once there is one."""

    finish: completion_pb2.Finish | None = None


@contextmanager
def noted(planned: Plan, account: Account, watch: Watch, prompt: Callable[[], str] | None = None) -> Iterator[Outcome]:
    """Around the decoding of `planned`, whose rules are those in force. prompt: gives its text, where that is to be
    logged."""
    began, outcome, failed = time.perf_counter(), Outcome(), ""
    try:
        yield outcome
    except Exception as error:
        failed = reason_of(error)
        raise
    finally:
        ended = failed or (_REASONS[outcome.finish.reason] if outcome.finish is not None else _left())
        facts = _facts(planned, account, ended)
        watch.span.set(**facts)
        watch.span.end(error=failed)
        facts["seconds"] = round(time.perf_counter() - began, 6)
        if watch.span.is_recorded:
            facts["trace_id"] = watch.span.trace_id
        if prompt is not None:
            facts["prompt"] = prompt()
        _log.info(_EVENTS.get(ended, "failed"), extra=facts)


def _left() -> str:
    """How a completion ended that nobody waits for any more."""
    return "DEADLINE_EXCEEDED" if DEADLINE.get().is_over else "cancelled"


def _facts(planned: Plan, account: Account, ended: str) -> dict[str, Any]:
    """Attributes of the span, fields of the line."""
    rules = planned.speculation
    return {
        "outcome": ended,
        "choice": planned.choice,
        "stop_rule": rules.stop.name if rules else "off",
        "accept_rule": rules.accept.name if rules else "off",
        "prompt_tokens": len(planned.prompt),
        "tokens": account.completion_tokens,
        "takeovers": account.takeovers,
        "acceptance_length": round(account.mean_acceptance_length, 3),
        "acceptance_rate": round(account.acceptance_rate, 3),
    }
