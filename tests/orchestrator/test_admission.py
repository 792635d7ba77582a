"""Who is let in, who waits, and who is told to come back: in bounds, in order, and in time."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from orchestrator import admission as module
from orchestrator.admission import Admission, Ask, Places
from orchestrator.deadline import Deadline
from tandem.rpc.errors import TandemError


@pytest.fixture(autouse=True)
def speculation_is_reduced_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHED_SECONDS", 0.0)


def ask(allowed: int = 10, *, within: float | None = None, **fields: int) -> Ask:
    return Ask(fields.pop("count", 1), allowed, deadline=Deadline(within), **fields)


def taught(admission: Admission, seconds: float, *, length: int = 10) -> None:
    """A token of a completion takes so long for each of those that are under way."""
    for n in range(1, 9):
        for _ in range(20):
            admission.pace.add(n, 1, seconds * n)
    admission.pace.ended(length, length)


async def refused(admission: Admission, asked: Ask) -> TandemError:
    with pytest.raises(TandemError) as caught:
        async with asyncio.timeout(10):
            await admission.enter(asked)
    error = caught.value
    assert error.reason == "OVERLOADED" and error.retry_after is not None and 0 < error.retry_after <= 30
    return error


def give_up(places: Places) -> None:
    places.__exit__()


async def waiting(admission: Admission, count: int) -> None:
    async with asyncio.timeout(10):
        while admission.waiting != count:
            await asyncio.sleep(0)


async def test_there_are_never_more_under_way_than_the_bound_and_all_get_their_turn() -> None:
    admission, source, most, done = Admission(5, 100), random.Random(3), 0, 0

    async def caller() -> None:
        nonlocal most, done
        for _ in range(10):
            with await admission.enter(ask(priority=source.randint(-1, 1), count=source.randint(1, 3))):
                most = max(most, admission.under_way)
                await asyncio.sleep(source.random() * 0.002)
            done += 1

    await asyncio.wait_for(asyncio.gather(*(caller() for _ in range(20))), 60)
    assert most <= 5 and done == 200
    assert admission.under_way == admission.waiting == 0


async def test_a_request_for_more_than_the_bound_is_let_in_by_itself() -> None:
    admission = Admission(4, 10)
    places = await admission.enter(ask(count=20))
    assert len(places) == admission.under_way == 20
    later = asyncio.create_task(admission.enter(ask()))
    await waiting(admission, 1)
    give_up(places)
    give_up(await later)


async def test_those_who_wait_are_let_in_by_priority_then_by_age() -> None:
    admission, order = Admission(1, 10), []
    places = await admission.enter(ask())

    async def caller(name: str, priority: int) -> None:
        with await admission.enter(ask(priority=priority)):
            order.append(name)

    callers = []
    for number, (name, priority) in enumerate([("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -5)]):
        callers.append(asyncio.create_task(caller(name, priority)))
        await waiting(admission, number + 1)
    give_up(places)
    await asyncio.gather(*callers)
    assert order == ["b", "d", "a", "c", "e"]


async def test_a_full_line_refuses_at_once_but_for_a_larger_priority() -> None:
    admission = Admission(1, 1)
    places = await admission.enter(ask())
    low = asyncio.create_task(admission.enter(ask(priority=-1)))
    await waiting(admission, 1)
    await refused(admission, ask(priority=-1))
    high = asyncio.create_task(admission.enter(ask(priority=1)))
    with pytest.raises(TandemError) as caught:
        await low
    assert caught.value.reason == "OVERLOADED" and caught.value.retry_after
    give_up(places)
    give_up(await high)
    await refused_without_line()


async def refused_without_line() -> None:
    admission = Admission(1, 0)
    with await admission.enter(ask()):
        await refused(admission, ask())
    give_up(await admission.enter(ask()))


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once_and_one_that_can_is_not() -> None:
    admission = Admission(100, 100)
    taught(admission, 0.1)  # ten tokens: a second alone, two for each of two
    with await admission.enter(ask()):
        began = time.monotonic()
        await refused(admission, ask(within=0.9))
        assert time.monotonic() - began < 0.5
        give_up(await admission.enter(ask(within=10.0)))
        give_up(await admission.enter(ask()))


async def test_those_under_way_keep_their_deadlines() -> None:
    """Another is let in only where those who are there still end in time."""
    admission = Admission(100, 100)
    taught(admission, 0.1)
    tight = await admission.enter(ask(within=2.2))  # two at once would take two seconds, and a margin
    later = asyncio.create_task(admission.enter(ask()))
    await waiting(admission, 1)
    give_up(tight)
    give_up(await asyncio.wait_for(later, 10))


async def test_who_is_alone_is_let_in_whatever_is_estimated() -> None:
    admission = Admission(100, 100)
    taught(admission, 100.0)
    give_up(await admission.enter(ask(within=0.5)))


async def test_nobody_is_refused_for_a_deadline_while_nothing_is_known() -> None:
    admission = Admission(100, 100)
    places = [await admission.enter(ask(within=0.1)) for _ in range(50)]
    for each in places:
        give_up(each)


async def test_nobody_is_refused_for_a_deadline_before_speculation_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHED_SECONDS", 0.2)
    admission = Admission(100, 100)
    taught(admission, 0.1)
    with await admission.enter(ask()):
        assert admission.strain < 0.1
        began = time.monotonic()
        await refused(admission, ask(within=0.9))
        assert time.monotonic() - began >= 0.2 and admission.strain == 1.0


async def test_who_waits_until_it_is_too_late_is_refused() -> None:
    admission = Admission(1, 10)
    taught(admission, 0.001)
    with await admission.enter(ask()):
        began = time.monotonic()
        await refused(admission, ask(within=0.5))
        assert time.monotonic() - began < 1.5
        assert admission.waiting == 0


async def test_who_leaves_while_it_waits_leaves_nothing() -> None:
    admission = Admission(1, 10)
    places = await admission.enter(ask())
    leaving = [asyncio.create_task(admission.enter(ask())) for _ in range(3)]
    await waiting(admission, 3)
    for task in leaving[:2]:
        task.cancel()
    await waiting(admission, 1)
    give_up(places)
    leaving[2].cancel()  # let in and gone at the same moment
    await asyncio.gather(*leaving, return_exceptions=True)
    if not leaving[2].cancelled():
        give_up(leaving[2].result())
    assert admission.under_way == admission.waiting == 0


async def test_strain_grows_as_room_goes() -> None:
    admission, places, strains = Admission(10, 10), [], []
    for _ in range(10):
        places.append(await admission.enter(ask()))
        strains.append(admission.strain)
    assert strains == sorted(strains) and strains[0] == pytest.approx(0.1) and strains[-1] == 1.0
