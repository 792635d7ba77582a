"""All replicas of one service: they come and go with their names' addresses, and each is watched while it is there."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import tenacity

from orchestrator.replicas.budget import RetryBudget
from orchestrator.replicas.fit import Fit
from orchestrator.replicas.full import Full
from orchestrator.replicas.pick import pick
from orchestrator.replicas.replica import Replica, State
from orchestrator.replicas.resolve import Address, Lookup, is_address, resolve, split, system_lookup
from orchestrator.replicas.service import Service
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError

_log = logging.getLogger(__name__)

#: Connections to one replica of a service.
Connect: TypeAlias = Callable[[Service, Address], ChannelPool]

# Seconds between two questions for the load: while sequences are given out and there is a choice, and otherwise.
_BUSY_SECONDS, _QUIET_SECONDS = 1.0, 2.0
# Seconds after the last sequence that was given out.
_IN_USE_SECONDS = 5.0
# After a name that was not found.
_FIRST_LOOKUP_WAIT_SECONDS = 0.2
# Endpoints that a message names.
_NAMED = 4


def plain(service: Service, address: Address) -> ChannelPool:
    """Connections without TLS."""
    return ChannelPool(address.endpoint)


class Group:
    """Looks for replicas from its construction on, until `close`; needs a running event loop.

    endpoints: HOST:PORT each, of one replica or of as many as the name has addresses. fit: says which may be used.
    reviewed: called whenever states may have changed. stall_seconds, answer_seconds: as of a replica. full: where those
    wait for whom no replica has room.
    """

    def __init__(
        self,
        service: Service,
        endpoints: Sequence[str],
        fit: Fit,
        *,
        timeout: float,
        resolve_seconds: float,
        lookup: Lookup = system_lookup,
        max_waiting: int = 256,
        connect: Connect = plain,
        reviewed: Callable[[], None] = lambda: None,
        stall_seconds: float = math.inf,
        answer_seconds: float = math.inf,
    ) -> None:
        self.service = service
        self.endpoints = tuple(dict.fromkeys(endpoints))
        self._fit = fit
        self._timeout = timeout
        self._resolve_seconds = resolve_seconds
        self._lookup = lookup
        self._connect = connect
        self._reviewed = reviewed
        self._bounds = {"stall_seconds": stall_seconds, "answer_seconds": answer_seconds}
        #: For streams of completions that are opened again.
        self.budget = RetryBudget()
        self._addresses: dict[str, Sequence[Address]] = {}  # by endpoint; those last known
        self._unknown: dict[str, str] = {}  # endpoints whose names were not found of late, and why
        self._replicas: dict[str, Replica] = {}  # by what they are connected to
        self._change = asyncio.Event()
        self._waiting = 0
        self.full = Full(max_waiting)
        self._used = -_IN_USE_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()
        for endpoint in self.endpoints:
            self._spawn(self._follow(endpoint))

    async def close(self) -> None:
        """Ends what is open. What asks for a replica afterwards finds none."""
        replicas, self._replicas = self.replicas, {}
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(replica.close() for replica in replicas), return_exceptions=True)

    # What there is.

    @property
    def replicas(self) -> list[Replica]:
        """All that are there, whatever their state."""
        return list(self._replicas.values())

    @property
    def ready(self) -> list[Replica]:
        """Those that take sequences."""
        return [replica for replica in self._replicas.values() if replica.state is State.READY]

    def count(self, state: State) -> int:
        return sum(replica.state is state for replica in self.replicas)

    @property
    def is_settled(self) -> bool:
        """Whether every name has been looked up and every replica asked, with whatever result."""
        looked_up = all(endpoint in self._addresses or endpoint in self._unknown for endpoint in self.endpoints)
        return looked_up and all(replica.was_asked for replica in self.replicas)

    def mismatch(self) -> TandemError | None:
        """Why waiting does not help: all answer, and none fits. None where there is hope."""
        replicas = self.replicas
        if not replicas or self._unknown or any(replica.state is not State.MISMATCHED for replica in replicas):
            return None
        return copy.copy(replicas[0].why)  # one that is raised again and again gathers its traces

    def problem(self) -> TandemError:
        """Why none is ready."""
        replicas = self.replicas
        if len(replicas) == 1 and not self._unknown and replicas[0].why is not None:
            return copy.copy(replicas[0].why)
        name = self.service.name
        where = [replica.endpoint for replica in replicas] or list(self.endpoints)
        told = ", ".join(where[:_NAMED]) + (" and others" if len(where) > _NAMED else "")
        if not replicas:
            reasons = "; ".join(self._unknown.values())
            return self.service.error(f"the {name} service at {told} is not found{reasons and ': '}{reasons}")
        failed, mismatched = self.count(State.FAILED), self.count(State.MISMATCHED)
        found = f"{failed} do not answer, {mismatched} serve what does not fit"
        return self.service.error(f"no {name} service of those at {told} can be used: {found}")

    # Choosing.

    @property
    def answering(self) -> list[Replica]:
        """Those that take sequences, and those that could if the model that is served were not another."""
        return [
            replica
            for replica in self._replicas.values()
            if replica.state is State.READY
            or (
                replica.state is State.MISMATCHED
                and replica.model is not None
                and replica.problem is None
                and replica.refusal is None
            )
        ]

    def choose(
        self, among: Callable[[Replica], bool] = lambda replica: True, *, superseded: bool = False
    ) -> Replica | None:
        """One that is ready, by load; None where there is none. superseded: or that answers, though another model is
        served by now."""
        self._used = time.monotonic()
        known = self.answering if superseded else self.ready
        candidates = [replica for replica in known if replica.circuit.allows() and among(replica)]
        return pick(candidates) if candidates else None

    async def choose_settled(
        self, among: Callable[[Replica], bool] = lambda replica: True, *, timeout: float
    ) -> Replica | None:
        """As `choose`; where none is there yet, waits until it is known whether there is one."""
        deadline = time.monotonic() + timeout
        while True:
            change = self._change
            if (replica := self.choose(among)) is not None or self.is_settled:
                return replica
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await change.wait()
            except TimeoutError:
                return None

    @property
    def change(self) -> asyncio.Event:
        """Set at the next change of any state."""
        return self._change

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """While somebody waits for one, those that do not answer are asked more often, and at once."""
        self._waiting += 1
        if self._waiting == 1:
            for replica in self.replicas:
                if replica.problem is not None:
                    replica.wake()
        try:
            yield
        finally:
            self._waiting -= 1

    # Watching.

    def review(self) -> None:
        """Judges all anew. To be called when what is known of one has changed, or what they have to fit."""
        misfits = self._fit.misfits(
            {
                replica: replica.model
                for replica in self.replicas
                if replica.model is not None and replica.problem is None and replica.refusal is None
            }
        )
        for replica in self.replicas:
            self._judge(replica, misfits)
        change, self._change = self._change, asyncio.Event()
        change.set()
        self._reviewed()

    def _judge(self, replica: Replica, misfits: Mapping[Replica, TandemError]) -> None:
        if replica.problem is not None:
            state, why = State.FAILED, replica.problem
        elif replica.refusal is not None:
            state, why = State.MISMATCHED, replica.refusal
        elif replica in misfits:
            state, why = State.MISMATCHED, misfits[replica]
        elif replica.circuit.is_open:
            broken = f"{self.service.at(replica.endpoint)} answers, but its streams have failed again and again"
            state, why = State.FAILED, self.service.error(f"{broken}; it is tried again in a while")
        elif replica.model is None:
            unheard = f"{self.service.at(replica.endpoint)} has not answered yet"
            state, why = State.FAILED, self.service.error(unheard)
        else:
            state, why = State.READY, None
        replica.note(state, why, patience=self._timeout)

    async def _follow(self, endpoint: str) -> None:
        """Looks up an endpoint again and again. An answer that fails leaves the addresses that were known."""
        host, _ = split(endpoint)
        lookups = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_random_exponential(
                multiplier=_FIRST_LOOKUP_WAIT_SECONDS, max=max(self._resolve_seconds, _FIRST_LOOKUP_WAIT_SECONDS)
            ),
            before_sleep=lambda state: self._not_found(endpoint, state),
        )
        while True:
            self._addresses[endpoint] = await lookups(resolve, endpoint, self._lookup)
            if self._unknown.pop(endpoint, None) is not None:
                _log.info("%s is found again", endpoint)
            self._settle()
            if is_address(host):
                return
            await asyncio.sleep(self._resolve_seconds * random.uniform(0.8, 1.2))

    def _not_found(self, endpoint: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        if endpoint not in self._unknown and endpoint in self._addresses:
            _log.warning("%s is not found any more (%s); its addresses stay as they were", endpoint, reason)
        self._unknown[endpoint] = reason
        self.review()

    def _settle(self) -> None:
        """Has a replica for every address that is known, and for no other."""
        known: dict[str, Address] = {}
        for addresses in self._addresses.values():
            for address in addresses:
                known.setdefault(address.endpoint, address)
        for endpoint in self._replicas.keys() - known.keys():
            leaving = self._replicas.pop(endpoint)
            _log.info("%s is gone; its %d streams may end", self.service.at(endpoint), leaving.streams)
            self._spawn(leaving.retire())
        for endpoint, address in known.items():
            if endpoint not in self._replicas:
                self._replicas[endpoint] = replica = self._enter(address)
                replica.start()
        self.review()

    def _enter(self, address: Address) -> Replica:
        return Replica(
            self.service,
            address,
            self._connect(self.service, address),
            timeout=self._timeout,
            pace=self._pace,
            is_wanted=lambda: self._waiting > 0 or self._is_in_use(),
            changed=self.review,
            **self._bounds,
        )

    def _is_in_use(self) -> bool:
        return time.monotonic() - self._used < _IN_USE_SECONDS

    def _pace(self) -> float:
        has_choice = self._is_in_use() and len(self.ready) > 1
        return (_BUSY_SECONDS if has_choice else _QUIET_SECONDS) * random.uniform(0.8, 1.2)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: a defect in watching its replicas", self.service.name, exc_info=error)
