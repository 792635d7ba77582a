"""The line: larger priorities first, then who came first; and it is bounded."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.line import Line, Ticket


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_the_first_is_of_the_largest_priority_and_of_these_the_oldest(priorities: list[int]) -> None:
    async def check() -> None:
        line: Line[int] = Line(100)
        for number, priority in enumerate(priorities):
            assert line.before(priority) == sum(other >= priority for other in priorities[:number])
            line.join(Ticket(priority, number))
        found = []
        while (ticket := line.first) is not None:
            assert line.last is not None and line.last.rank >= ticket.rank
            found.append(ticket.what)
            line.leave(ticket)
            line.leave(ticket)  # twice is once
        assert found == sorted(range(len(priorities)), key=lambda number: (-priorities[number], number))

    asyncio.run(check())


async def test_who_comes_back_stands_where_it_stood() -> None:
    line: Line[str] = Line(3)
    first, second = Ticket(0, "first"), Ticket(0, "second")
    line.join(first)
    line.leave(first)
    line.join(second)
    line.join(first)
    assert line.first is first and not line.is_full
    line.join(Ticket(5, "third"))
    assert line.is_full
