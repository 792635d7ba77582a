"""A group of processes that run one model, from both sides: how they meet, agree, and end in order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist

from tandem.inference.parallel.link import Door, LinkError, knock
from tandem.inference.parallel.member import JOIN_SECONDS, GroupLostError, Member, line_of, rendezvous
from tandem.inference.parallel.place import GroupError, Place

#: For followers to end after the leader has.
_CLOSE_SECONDS = 10.0


class Leader(Member):
    """Rank 0's side."""

    def __init__(self, place: Place, device: torch.device, facts: Mapping[str, str]) -> None:
        """Waits for all others. facts: what has to be the same in all processes. Raises GroupError."""
        store = rendezvous(place)
        with Door(place) as door:
            store.set("invitation", door.invitation)
            found = door.admit(JOIN_SECONDS)
        super().__init__(place, device, {f"rank {rank}": links for rank, links in found.items()})
        self._steps = {name: links["steps"] for name, links in self.links.items()}
        self._compare(facts)
        self.init_torch(store)

    def agree(self, blocks: int) -> int:
        """Of the key-value cache: as many as the process with the least room has. All have loaded then."""
        least = min(blocks, *(int(theirs["blocks"]) for theirs in self._hear_all().values()))
        self._tell_all({"blocks": least})
        self.watch.be_strict()
        return least

    def send(self, message: bytes) -> None:
        """A step to all followers; empty where there are no more. Raises LinkError."""
        for link in self._steps.values():
            link.send(message)

    def close(self) -> None:
        """Ends the group in order; nothing where it is lost."""
        if self.watch.lost is not None:
            return
        self.watch.dismiss()
        with suppress(LinkError):
            self.send(b"")
        dist.destroy_process_group()
        self._wait_for_followers()
        self.close_links()

    def _wait_for_followers(self) -> None:
        """What they have not read yet would be lost to them with this process."""
        for link in self._steps.values():
            link.wait_for_end(_CLOSE_SECONDS)

    def _compare(self, facts: Mapping[str, str]) -> None:
        problem = None
        for name, theirs in self._hear_all().items():
            for fact in facts:
                if theirs.get(fact) != facts[fact] and problem is None:
                    problem = f"{fact} is {theirs.get(fact)} on {name} and {facts[fact]} on rank 0; start all alike"
        self._tell_all({"problem": problem})
        if problem is not None:
            self.watch.dismiss()  # they end by themselves
            self._wait_for_followers()
            raise GroupError(problem)

    def _hear_all(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, link in self._steps.items():
            try:
                found[name] = link.receive_facts()
            except LinkError as error:
                raise GroupError(self.watch.fail(f"{name} is gone")) from error
        return found

    def _tell_all(self, facts: Mapping[str, Any]) -> None:
        for name, link in self._steps.items():
            try:
                link.send_facts(facts)
            except LinkError as error:
                raise GroupError(self.watch.fail(f"{name} is gone")) from error


class Follower(Member):
    """The side of every other rank."""

    def __init__(self, place: Place, device: torch.device, facts: Mapping[str, str]) -> None:
        """Waits for rank 0. facts: see Leader. Raises GroupError."""
        store = rendezvous(place)
        try:
            invitation = store.get("invitation").decode()
        except RuntimeError as error:
            raise GroupError(f"rank {place.rank} has not heard of rank 0: {line_of(error)}") from error
        super().__init__(place, device, {"rank 0": knock(place, invitation)})
        self._link = self.links["rank 0"]["steps"]
        self._compare(facts)
        self.init_torch(store)

    def agree(self, blocks: int) -> int:
        """See Leader.agree."""
        least = int(self._ask({"blocks": blocks})["blocks"])
        self.watch.be_strict()
        return least

    def receive(self) -> bytes:
        """Waits for the next step, however long; empty where there are no more. Raises GroupLostError."""
        try:
            message = self._link.receive()
        except LinkError as error:
            raise GroupLostError(self.watch.fail("rank 0 is gone")) from error
        if not message:
            self.watch.dismiss()
        return message

    def close(self) -> None:
        """Ends the group in order, after `receive` has said so."""
        dist.destroy_process_group()
        self.close_links()

    def _compare(self, facts: Mapping[str, str]) -> None:
        problem = self._ask(facts)["problem"]
        if problem is not None:
            self.watch.dismiss()
            raise GroupError(str(problem))

    def _ask(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._link.send_facts(facts)
            return self._link.receive_facts()
        except LinkError as error:
            raise GroupError(self.watch.fail("rank 0 is gone")) from error
