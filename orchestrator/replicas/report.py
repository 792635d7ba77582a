"""What callers are told of the replicas."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.replicas.replica import Replica, State
from tandem.v1 import completion_pb2
from tandem.v1.model_pb2 import Load

_STATES = {
    State.READY: completion_pb2.REPLICA_STATE_READY,
    State.FAILED: completion_pb2.REPLICA_STATE_FAILED,
    State.MISMATCHED: completion_pb2.REPLICA_STATE_MISMATCHED,
}

_MOST_COUNT, _MOST_BYTES = 2**32 - 1, 2**64 - 1


def total(replicas: Iterable[Replica]) -> Load | None:
    """The load of those that are ready, together; None where none is."""
    ready = [replica.load for replica in replicas if replica.state is State.READY]
    if not ready:
        return None
    # Where one of several is not bounded, all together are not.
    bounded = all(load.cache_capacity_bytes for load in ready)
    # Each may say anything: a field holds no more than it can.
    return Load(
        sessions=min(sum(load.sessions for load in ready), _MOST_COUNT),
        waiting_blocks=min(sum(load.waiting_blocks for load in ready), _MOST_COUNT),
        cache_bytes=min(sum(load.cache_bytes for load in ready), _MOST_BYTES),
        cache_capacity_bytes=min(sum(load.cache_capacity_bytes for load in ready), _MOST_BYTES) if bounded else 0,
        queued_sessions=min(sum(load.queued_sessions for load in ready), _MOST_COUNT),
        max_sessions=_most(load.max_sessions for load in ready),
        max_queue=_most(load.max_queue for load in ready),
    )


def _most(values: Iterable[int]) -> int:
    """Of all together; 0, which is no bound, where one of them has none."""
    found = list(values)
    return min(sum(found), _MOST_COUNT) if all(found) else 0


def told(replica: Replica) -> completion_pb2.Replica:
    answers = replica.problem is None and replica.was_asked
    return completion_pb2.Replica(
        address=replica.endpoint,
        state=_STATES[replica.state],
        problem=replica.why.message if replica.why is not None else "",
        model=replica.model if answers else None,
        load=replica.load if answers and replica.model is not None else None,
        completions=replica.streams,
    )
