"""The choice between replicas: the less busy of two, by what was reported and what was begun here since."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from orchestrator.replicas import TARGET, Address, Lease, Replica
from orchestrator.replicas.pick import busy, pick
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import Load, ModelInfo

Make = Callable[..., Replica]


@pytest.fixture
async def replica() -> AsyncIterator[Make]:
    """Makes replicas that are never asked and are given a load as if they had been."""
    made: list[Replica] = []

    def make(**load: int) -> Replica:
        address = Address(f"127.0.0.1:{len(made) + 1}", "127.0.0.1")
        pool = ChannelPool(address.endpoint, size=1)
        found = Replica(
            TARGET, address, pool, timeout=1, pace=lambda: 1.0, is_wanted=lambda: False, changed=lambda: None
        )
        found.model, found.load = ModelInfo(model_id="m"), Load(**load)
        made.append(found)
        return found

    yield make
    for each in made:
        await each.close()


async def test_the_formula(replica: Make) -> None:
    assert busy(replica()) == 1
    assert busy(replica(sessions=3)) == 4
    assert busy(replica(sessions=3, waiting_blocks=2)) == 6
    assert busy(replica(sessions=3, cache_bytes=75, cache_capacity_bytes=100)) == 16
    assert busy(replica(cache_bytes=100, cache_capacity_bytes=100)) == pytest.approx(100)
    assert busy(replica(sessions=3, cache_bytes=75)) == 4  # nothing bounds it


async def test_what_was_begun_here_counts_before_it_is_reported(replica: Make) -> None:
    one = replica(sessions=5)
    leases = [Lease(one) for _ in range(3)]
    assert one.sessions == 8
    one.load, one._streams_reported = Load(sessions=8), 3  # as the next report has it
    assert one.sessions == 8
    for lease in leases:
        lease.release()
        lease.release()
    assert (one.streams, one.sessions) == (0, 5)


async def test_the_busier_of_two_is_not_chosen(replica: Make) -> None:
    idle, *others = replica(sessions=1), replica(sessions=2), replica(waiting_blocks=5)
    for other in others:
        assert {pick([idle, other]) for _ in range(50)} == {idle}
    assert pick([others[0]]) is others[0]


async def test_equals_share(replica: Make) -> None:
    three = [replica() for _ in range(3)]
    counts = Counter(pick(three) for _ in range(600))
    # Each has a chance of a third: fewer than 130 or more than 270 of 600 come up once in 10 ** 8 times.
    assert len(counts) == 3 and all(130 < count < 270 for count in counts.values())


async def test_one_that_is_full_comes_last(replica: Make) -> None:
    full, other = replica(), replica(sessions=9)
    full.told(TandemError.overloaded("full", retry_after=30.0))
    assert {pick([full, other]) for _ in range(50)} == {other}
    assert pick([full]) is full


async def test_streams_spread_far_better_than_by_chance(replica: Make) -> None:
    """1,000 open sequences over ten replicas: the fullest lies at most 4 above the mean. In 20,000 simulations of this
    it was at most 3; one random choice leaves it 15 above in the mean."""
    replicas = [replica() for _ in range(10)]
    for _ in range(1000):
        Lease(pick(replicas))
    assert max(each.streams for each in replicas) <= 104
    by_chance = [max(Counter(random.choices(range(10), k=1000)).values()) - 100 for _ in range(200)]
    assert statistics.mean(by_chance) > 8
