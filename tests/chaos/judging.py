"""What counts as right: each request by itself, against its only right answer and the faults of its time."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.history import History
from tests.chaos.outcomes import TRANSPORT, Outcome, Received
from tests.chaos.schedule import DRAIN, ROLLING
from tests.chaos.works import Answer

# How far a text may have slipped for that to be told from another text.
_MOST_SLIP = 64
#: What a request may fail with. Others are defects, whatever else goes wrong.
ALLOWED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


class Verdict(enum.StrEnum):
    """RIGHT, LEFT and ALLOWED are as it should be."""

    RIGHT = "right"
    LEFT = "left by its caller"
    ALLOWED = "failed, allowed"
    FAILED = "failed wrongly"
    UNCLEAR = "failed unclearly"
    WRONG = "wrong text"
    LOST = "lost tokens"
    DUPLICATED = "duplicated tokens"
    HUNG = "hung"

    @property
    def is_good(self) -> bool:
        return self in (Verdict.RIGHT, Verdict.LEFT, Verdict.ALLOWED)


@dataclass(frozen=True, slots=True)
class Judgement:
    """why: in words, where it is not good, or of a failure."""

    verdict: Verdict
    why: str = ""


def judge(outcome: Outcome, history: History) -> Judgement:
    """Of a request that has ended."""
    assert outcome.ended is not None
    if outcome.overdue:
        return Judgement(Verdict.HUNG, f"not over a second after its {outcome.seconds:.1f} s")
    whole = outcome.failure is None and not outcome.has_left
    # What has come must be right also where no more comes.
    for index in range(outcome.work.choices):
        received = outcome.choices.get(index, Received())
        answer = outcome.work.answers[index] if outcome.work.has_answer else None
        if (found := check(received, answer, outcome, whole=whole)) is not None:
            return Judgement(found.verdict, f"choice {index}: {found.why}")
    if outcome.has_left:
        return Judgement(Verdict.LEFT)
    if outcome.failure is None:
        return Judgement(Verdict.RIGHT)
    return _failed(outcome, history)


def check(received: Received, answer: Answer | None, outcome: Outcome, *, whole: bool) -> Judgement | None:
    """Of one choice: None where nothing is wrong with it. answer: None where it is not known. whole: it has ended."""
    count = len(received.tokens)
    if answer is not None:
        wanted = answer.tokens
        if received.tokens != wanted[:count]:
            return slipped(received.tokens, wanted)
        if whole and count < len(wanted):
            return Judgement(Verdict.LOST, f"the last {len(wanted) - count} of {len(wanted)} are missing")
        if not (received.text == answer.text if whole else answer.text.startswith(received.text)):
            return Judgement(Verdict.WRONG, f"the tokens are right, the text is not: {received.text[-40:]!r}")
    elif count > outcome.work.request.max_tokens:
        return Judgement(Verdict.DUPLICATED, f"{count} tokens of at most {outcome.work.request.max_tokens}")
    elif whole and count < outcome.work.request.max_tokens:  # none of these ends before
        return Judgement(Verdict.LOST, f"{count} tokens of {outcome.work.request.max_tokens}")
    if whole and received.counted != count:
        return Judgement(Verdict.LOST, f"{count} tokens have come, {received.counted} were sent")
    if outcome.work.request.HasField("log_probabilities") and received.scored != count:
        return Judgement(Verdict.LOST, f"{count} tokens with {received.scored} log-probabilities")
    return None


def slipped(found: Sequence[int], wanted: Sequence[int]) -> Judgement:
    """How a text differs from the right one: tokens came twice, or not at all, or are others."""
    at = next((index for index, token in enumerate(found) if index >= len(wanted) or token != wanted[index]), 0)
    for slip in range(1, _MOST_SLIP):
        again, gone = found[at + slip :], found[at:]
        if at >= slip and found[at : at + slip] == wanted[at - slip : at] and again == wanted[at : at + len(again)]:
            return Judgement(Verdict.DUPLICATED, f"{slip} tokens before position {at} came twice")
        if len(gone) > 2 and gone == wanted[at + slip : at + slip + len(gone)]:
            return Judgement(Verdict.LOST, f"{slip} tokens at position {at} did not come")
    told = f"{list(found[at : at + 5])} and not {list(wanted[at : at + 5])}"
    return Judgement(Verdict.WRONG, f"from token {at} on: {told}")


def _failed(outcome: Outcome, history: History) -> Judgement:
    failure = outcome.failure
    assert failure is not None and outcome.ended is not None
    told = f"{failure.code} {failure.reason}: {failure.message}"
    if failure.code not in ALLOWED and not _is_cut_off(outcome, history):
        return Judgement(Verdict.UNCLEAR, told)
    if not outcome.patient:  # it had less time than anything can be promised in
        return Judgement(Verdict.ALLOWED, told)
    if not history.excuses(outcome):
        return Judgement(Verdict.FAILED, told)
    # An orchestrator that could be reached has to say why, and when to come back.
    reachable = outcome.orchestrator and not history.touched(outcome.orchestrator, outcome)
    says_when = failure.reason != TRANSPORT and failure.retry_after is not None
    if reachable and failure.code != "DEADLINE_EXCEEDED" and not says_when:
        return Judgement(Verdict.UNCLEAR, told)
    return Judgement(Verdict.ALLOWED, told)


def _is_cut_off(outcome: Outcome, history: History) -> bool:
    """Whether a call came in the very moment in which a server that drains stops: gRPC itself cuts such a call off,
    before any handler could say a word."""
    failure = outcome.failure
    assert failure is not None and outcome.ended is not None
    if (failure.code, failure.reason, outcome.tokens) != ("CANCELLED", TRANSPORT, 0) or not outcome.orchestrator:
        return False
    return history.hit([outcome.orchestrator], outcome.began, outcome.ended, 0.0, kinds=(DRAIN, ROLLING))
