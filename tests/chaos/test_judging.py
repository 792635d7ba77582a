"""The judge finds what a run is there to find: a run cannot pass because nobody looked."""

from __future__ import annotations

from collections import Counter

import pytest

from tandem.v1 import completion_pb2
from tests.chaos.history import SETTLE_SECONDS, History
from tests.chaos.judging import Verdict, judge
from tests.chaos.latency import added
from tests.chaos.outcomes import TRANSPORT, Failure, Outcome, Received
from tests.chaos.schedule import AT_ONCE, KILL, ON_CALLERS, ON_LINKS, ON_PROCESSES, STOP, Fault, schedule
from tests.chaos.stage import DRAFTS, ORCHESTRATORS, TARGETS
from tests.chaos.works import Answer, Work

WANTED = [5, 9, 3, 3, 8, 1, 4, 7, 2, 6]
GONE = Failure("UNAVAILABLE", "TARGET_UNAVAILABLE", "gone", 1.0)


def outcome(tokens: list[int], *, failure: Failure | None = None, **fields: object) -> Outcome:
    """Of a request that took from second 100 to 110."""
    work = Work("greedy", completion_pb2.CompleteRequest(max_tokens=10), (Answer(WANTED, "text"),))
    found = Outcome(work, "chaos-00000001", "grpc", "orchestrator0", 30.0, began=100.0, ended=110.0, failure=failure)
    text = "text" if tokens == WANTED else ""
    found.choices[0] = Received(tokens, text, counted=None if failure else len(tokens))
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def history(*faults: tuple[str, str, float, float | None]) -> History:
    """Of kind, victim, beginning and end."""
    found = History()
    for kind, victim, began, ended in faults:
        event = found.begin(Fault(0.0, kind, (victim,), 1.0))
        event.began, event.ended = began, ended
    return found


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [
        (WANTED, Verdict.RIGHT),
        (WANTED[:4] + WANTED[3:], Verdict.DUPLICATED),
        (WANTED[:7] + WANTED[4:], Verdict.DUPLICATED),
        (WANTED + [6], Verdict.DUPLICATED),
        (WANTED[:5] + WANTED[6:], Verdict.LOST),
        (WANTED[2:], Verdict.LOST),
        (WANTED[:-1], Verdict.LOST),
        (WANTED[:5] + [42] + WANTED[6:], Verdict.WRONG),
    ],
)
def test_a_text_is_right_to_the_last_token(tokens: list[int], verdict: Verdict) -> None:
    assert judge(outcome(tokens), history()).verdict is verdict


def test_the_text_itself_is_compared() -> None:
    found = outcome(WANTED)
    found.choices[0].text = "texd"
    assert judge(found, history()).verdict is Verdict.WRONG


def test_what_came_before_a_failure_has_to_be_right() -> None:
    killed = history((KILL, "target0", 105.0, 108.0), (KILL, "target1", 105.0, 108.0))
    assert judge(outcome(WANTED[:4], failure=GONE), killed).verdict is Verdict.ALLOWED
    assert judge(outcome([*WANTED[:4], 42], failure=GONE), killed).verdict is Verdict.WRONG


def test_a_request_may_fail_only_where_no_target_was_untouched() -> None:
    one = history((KILL, "target0", 105.0, 108.0))
    assert judge(outcome([], failure=GONE), one).verdict is Verdict.FAILED
    other = history((KILL, "target0", 105.0, 108.0), ("cut", "orchestrator1>target1", 106.0, 106.0))
    assert judge(outcome([], failure=GONE), other).verdict is Verdict.FAILED  # the way of the other orchestrator
    own = history((KILL, "target0", 105.0, 108.0), ("cut", "orchestrator0>target1", 106.0, 106.0))
    assert judge(outcome([], failure=GONE), own).verdict is Verdict.ALLOWED
    drafts = history(*((KILL, name, 100.0, None) for name in DRAFTS))
    assert judge(outcome([], failure=GONE), drafts).verdict is Verdict.FAILED


def test_what_was_healed_long_before_excuses_nothing() -> None:
    for ended, verdict in ((99.0 - SETTLE_SECONDS, Verdict.FAILED), (99.0, Verdict.ALLOWED)):
        before = history((STOP, "target0", 80.0, ended), (STOP, "target1", 105.0, None))
        assert judge(outcome([], failure=GONE), before).verdict is verdict


def test_a_caller_of_several_orchestrators_needs_one_that_is_untouched() -> None:
    lost = Failure("UNAVAILABLE", TRANSPORT, "reset")
    killed = history((KILL, "orchestrator0", 105.0, 108.0))
    assert judge(outcome([], failure=lost), killed).verdict is Verdict.ALLOWED
    assert judge(outcome([], failure=lost, orchestrator=""), killed).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "failure",
    [
        Failure("INTERNAL", "INTERNAL", "a defect"),
        Failure("CANCELLED", TRANSPORT, "nobody asked for it"),
        Failure("UNAVAILABLE", TRANSPORT, "reset, by an orchestrator that nothing has happened to"),
        Failure("UNAVAILABLE", "TARGET_UNAVAILABLE", "and when to come back is not said"),
    ],
)
def test_a_failure_has_to_be_clear_whatever_happened(failure: Failure) -> None:
    killed = history((KILL, "target0", 105.0, 108.0), (KILL, "target1", 105.0, 108.0))
    assert judge(outcome([], failure=failure), killed).verdict is Verdict.UNCLEAR


def test_only_a_drain_excuses_a_call_that_grpc_cuts_off_at_its_beginning() -> None:
    cut = Failure("CANCELLED", TRANSPORT, "by gRPC")
    drained, killed = (history((kind, "orchestrator0", 109.0, None)) for kind in ("drain", KILL))
    assert judge(outcome([], failure=cut), drained).verdict is Verdict.ALLOWED
    assert judge(outcome(WANTED[:2], failure=cut), drained).verdict is Verdict.UNCLEAR
    assert judge(outcome([], failure=cut), killed).verdict is Verdict.UNCLEAR


def test_what_is_overdue_hangs_whatever_happened() -> None:
    killed = history((KILL, "target0", 105.0, 108.0), (KILL, "target1", 105.0, 108.0))
    assert judge(outcome([], overdue=True), killed).verdict is Verdict.HUNG


def test_who_left_or_was_in_a_hurry_is_no_failure() -> None:
    assert judge(outcome(WANTED[:3], has_left=True), history()).verdict is Verdict.LEFT
    late = Failure("DEADLINE_EXCEEDED", TRANSPORT, "late")
    assert judge(outcome([], failure=late, patient=False), history()).verdict is Verdict.ALLOWED
    assert judge(outcome([], failure=late), history()).verdict is Verdict.FAILED


def test_the_gap_of_a_kill_is_told_from_the_others() -> None:
    found = outcome(WANTED)
    times = [index * 0.1 for index in range(20)] + [2.9 + index * 0.1 for index in range(10)]
    found.arrivals = [(when, 1) for when in times]
    more, median = added(found, killed=1.95) or (0.0, 0.0)
    assert (round(more, 3), round(median, 3)) == (0.9, 0.1)
    assert added(found, killed=0.35) is None  # too few rounds before it


def test_a_schedule_is_its_seeds_and_has_all_there_is() -> None:
    faults = schedule(3, 1800)
    assert faults == schedule(3, 1800) and faults != schedule(4, 1800)
    assert len(faults) > 450 and [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert {fault.kind for fault in faults} == {*ON_PROCESSES, *ON_LINKS, *ON_CALLERS, "rolling"}
    assert {fault.on for fault in faults if fault.kind == KILL} == {"draft", "target", "orchestrator"}
    rolling = Counter(fault.victims[0] for fault in faults if fault.kind == "rolling")
    assert set(rolling) == {*DRAFTS, *TARGETS, *ORCHESTRATORS} and min(rolling.values()) >= 2
    assert all((fault.seconds > 0) != (fault.kind in (*AT_ONCE, "rolling", "leave", "hurry")) for fault in faults)
    stops = [fault.seconds for fault in faults if fault.kind == STOP]
    assert min(stops) < 0.5 and 10 < max(stops) <= 20
    assert {fault.is_harsh for fault in faults} == {True, False}
