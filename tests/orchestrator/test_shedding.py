"""Speculation gives way as targets fill up: never otherwise, never the other way round, and slowly back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policy import build_stop_rule
from orchestrator.replicas import TARGET, Address, Replica
from orchestrator.shedding import BEGINS, ENDS, Governor, Shed, reduction, used
from tandem.policies import STOP_RULES, policy_from_names
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import Load


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    """Never asked."""
    address = Address("127.0.0.1:1", "127.0.0.1")
    found = Replica(
        TARGET, address, ChannelPool(address.endpoint, 1),
        timeout=1.0, pace=lambda: 1.0, is_wanted=lambda: False, changed=lambda: None,
    )  # fmt: skip
    yield found
    await found.close()


@given(st.lists(st.floats(0, 2), min_size=2), st.integers(1, 64))
def test_more_in_use_never_leaves_more_candidates(shares: list[float], wanted: int) -> None:
    found = [reduction(share) for share in sorted(shares)]
    assert found == sorted(found) and all(0 <= each <= 1 for each in found)
    assert reduction(BEGINS) == 0 and reduction(ENDS) == reduction(1.0) == 1


async def test_a_target_that_has_room_is_left_alone(replica: Replica) -> None:
    governor = Governor(lambda: 0.5)
    for sessions in (0, 1, 64, 128, 192):
        replica.load = Load(
            sessions=sessions, waiting_blocks=sessions, max_sessions=256, max_queue=64, queued_sessions=40,
            cache_bytes=70, cache_capacity_bytes=100,
        )  # fmt: skip
        assert [governor.most(replica, wanted) for wanted in (0, 1, 5, 20, 64)] == [0, 1, 5, 20, 64]


@pytest.mark.parametrize(
    "load",
    [
        Load(sessions=255, max_sessions=256),
        Load(sessions=2, max_sessions=2),
        Load(sessions=100, queued_sessions=64, max_sessions=256, max_queue=64),
        Load(sessions=20, cache_bytes=99, cache_capacity_bytes=100),
    ],
)
async def test_each_bound_that_is_reached_ends_speculation(replica: Replica, load: Load) -> None:
    replica.load = load
    assert used(replica) > ENDS
    assert Governor(lambda: 0.0).most(replica, 20) == 0


@pytest.mark.parametrize("load", [Load(), Load(sessions=1, max_sessions=1), Load(sessions=500)])
async def test_the_only_session_and_unknown_bounds_are_no_load(replica: Replica, load: Load) -> None:
    replica.load = load
    assert used(replica) == 0


async def test_a_refusal_and_a_line_end_it_at_once(replica: Replica) -> None:
    strain = 0.0
    governor = Governor(lambda: strain)
    assert governor.most(replica, 20) == 20
    replica.told(TandemError.overloaded("full", retry_after=1.0))
    assert governor.most(replica, 20) == 0
    strain = 1.0
    assert Governor(lambda: strain).most(replica, 1) == 0


async def test_it_comes_back_slowly_and_only_once_there_is_clearly_room(replica: Replica) -> None:
    clock, strain = Clock(), 0.95
    governor = Governor(lambda: strain, clock)
    assert governor.most(replica, 20) == 0
    strain = 0.94  # hardly less
    clock.now += 60
    assert governor.most(replica, 20) == 0
    strain, found = 0.0, []
    for _ in range(12):
        clock.now += 0.5
        found.append(governor.most(replica, 20))
    assert found == sorted(found) and found[0] < 5 and found[-1] == 20
    strain = 0.85
    assert 0 < governor.most(replica, 20) < 20  # at once again


@pytest.mark.parametrize("name", STOP_RULES)
@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_every_stop_rule_is_capped_and_otherwise_as_it_is(name: str, most: int) -> None:
    policy = policy_from_names(name, "exact").stop
    plain, shed = build_stop_rule(policy), Shed(build_stop_rule(policy), lambda wanted: min(wanted, most))
    own, found = plain.limits(), shed.limits()
    assert shed.name == plain.name and shed.thresholds() == plain.thresholds()
    assert found.max_tokens == min(most, own.max_tokens) and found.min_tokens <= found.max_tokens
    if most >= own.max_tokens:
        assert found == own and not shed.is_alone
    elif most == 0:
        assert shed.is_alone and found.alone_tokens > 0
