"""A place at a replica for one sequence."""

from __future__ import annotations

from orchestrator.replicas.replica import Replica
from tandem.v1.model_pb2 import ModelInfo


class Lease:
    """Counts as a sequence of its replica from the choice on, so that others see it before it is there.

    model: what the replica served when it was chosen.
    """

    def __init__(self, replica: Replica) -> None:
        self._take(replica)

    def move(self, replica: Replica) -> None:
        """To another replica, which takes what this one did not."""
        self.release()
        self._take(replica)

    def _take(self, replica: Replica) -> None:
        assert replica.model is not None, "only those are chosen that have said what they serve"
        self.replica: Replica = replica
        self.model: ModelInfo = replica.model
        self._is_held = True
        replica.streams += 1

    def release(self) -> None:
        """May be called at any time, also twice."""
        if self._is_held:
            self.replica.streams -= 1
        self._is_held = False
