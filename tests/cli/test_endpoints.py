"""The command asks each of several orchestrators once, and says so where none of them answers."""

from __future__ import annotations

import asyncio

from tests.cli.processes import refusal, tandem
from tests.support.fleet import fleet

CLOSED = "127.0.0.1:1"  # nothing listens on it
ASKED = ("complete", "!!", "--raw", "--policy", "off", "--max-tokens", "8")


async def test_one_of_several_that_answers_will_do() -> None:
    async with fleet() as made:
        target = await made.target()
        orchestrator = await made.orchestrator([target])
        await orchestrator.until(target)
        alive = orchestrator.server.address
        found = set()
        for endpoints in (alive, f"{CLOSED},{alive}", f"{alive}, 127.0.0.1:2,{CLOSED}"):
            done = await asyncio.to_thread(tandem, *ASKED, "--endpoint", endpoints)
            assert (done.returncode, done.stderr) == (0, ""), done
            found.add(done.stdout)
        assert len(found) == 1


def test_where_none_answers_all_are_named() -> None:
    told = refusal(tandem(*ASKED, "--endpoint", f"{CLOSED},127.0.0.1:2"))
    assert told == f"no orchestrator answers at {CLOSED},127.0.0.1:2; start one with `tandem up`"


def test_each_has_to_be_an_endpoint() -> None:
    told = refusal(tandem(*ASKED, "--endpoint", f"{CLOSED},nowhere"))
    assert told.startswith("--endpoint: 'nowhere' is not an endpoint")
