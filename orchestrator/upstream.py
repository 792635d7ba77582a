"""The services behind the orchestrator: where to open a sequence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from orchestrator.replicas import (
    DRAFT,
    TARGET,
    Address,
    Connect,
    FitsTarget,
    Group,
    Lookup,
    MiddlePair,
    OneModel,
    Pair,
    Replica,
    Search,
    Service,
    State,
    system_lookup,
)
from tandem.rpc.channels import ChannelPool
from tandem.rpc.tls import ClientTls
from tandem.telemetry import Telemetry
from tandem.v1 import model_pb2


class Upstream:
    """The targets behind the orchestrator and, where there are any, the drafts and the middle models of stacks, which
    are target services: each endpoint is one replica or as many as its name has addresses. Looks for them from its
    construction on, until `close`; needs a running event loop.

    connect_timeout_seconds: most that a completion waits for a target, and a replica has for an answer.
    target_patience_seconds: most that one that has begun waits for another target; as long if None. stall_seconds,
    target_timeout_seconds: after which streams of a replica that says nothing at all, or a stream of a target that is
    not answered, are given up. lookup: of names. max_waiting: completions that may wait for a target that has room.
    telemetry: told of the calls. tls: of all connections, None for plain ones. connect: to an address; by default with
    `telemetry` and `tls`.
    """

    def __init__(
        self,
        target: Sequence[str],
        draft: Sequence[str] = (),
        middle: Sequence[str] = (),
        *,
        connect_timeout_seconds: float,
        target_patience_seconds: float | None = None,
        stall_seconds: float = math.inf,
        target_timeout_seconds: float = math.inf,
        resolve_seconds: float = 5.0,
        lookup: Lookup = system_lookup,
        max_waiting: int = 256,
        telemetry: Telemetry | None = None,
        tls: ClientTls | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._timeout, self._patience = connect_timeout_seconds, target_patience_seconds
        self._served = OneModel()
        look = partial(
            Group,
            timeout=connect_timeout_seconds,
            resolve_seconds=resolve_seconds,
            lookup=lookup,
            max_waiting=max_waiting,
            connect=connect or partial(_connect, telemetry, tls),
            stall_seconds=stall_seconds,
        )
        self._drafts = look(DRAFT, draft, FitsTarget(self._served))
        self._targets = look(
            TARGET, target, self._served, reviewed=self._review_others, answer_seconds=target_timeout_seconds
        )
        self._middles = look(TARGET, middle, FitsTarget(self._served), answer_seconds=target_timeout_seconds)

    def _review_others(self) -> None:
        """Whatever has to fit the target."""
        self._drafts.review()
        self._middles.review()

    def expect(self, own: model_pb2.ModelInfo) -> None:
        """own: what is known of the target before any has said what it serves; one that is another's is not used."""
        self._served.own = own

    @property
    def has_draft(self) -> bool:
        """Whether there is to be one."""
        return bool(self._drafts.endpoints)

    async def pair(self, *, speculates: bool, priority: int = 0) -> Pair:
        """Where to run the completions of a request; to be released. priority: who goes first where targets are full.

        Raises TandemError TARGET_UNAVAILABLE once none could be reached for the connect timeout, and TOKENIZER_MISMATCH
        where what is there cannot be used.
        """
        return await Pair.find(
            self._targets,
            self._drafts,
            timeout=self._timeout,
            speculates=speculates,
            patience=self._patience,
            priority=priority,
        )

    @property
    def has_middle(self) -> bool:
        """Whether there is to be one."""
        return bool(self._middles.endpoints)

    def middle_model(self) -> model_pb2.ModelInfo | None:
        """Of a middle that is ready; None where there is none."""
        return next((replica.model for replica in self._middles.ready), None)

    def middle(self, pair: Pair, *, with_draft: bool) -> MiddlePair | None:
        """Where the middle of a stack below this pair's target runs, with the pair's draft below it or without one; to
        be released. None where none is ready."""
        found = self._middles.choose()
        if found is None:
            return None
        draft = pair.draft.replica if with_draft and pair.draft is not None else None
        return MiddlePair(self._middles, self._drafts, found, draft)

    async def target_model(self) -> model_pb2.ModelInfo:
        """The model that is served. Raises TandemError as `pair` does."""
        replica = await Search(self._targets, self._timeout).find()
        assert replica.model is not None  # only such are found
        return replica.model

    async def draft_model(self) -> model_pb2.ModelInfo | None:
        """Of a draft that is ready, else of one that does not fit; None where none answers."""
        await self._drafts.choose_settled(timeout=self._timeout)
        others = [replica for replica in self._drafts.replicas if replica.state is State.MISMATCHED]
        return next((replica.model for replica in (*self._drafts.ready, *others)), None)

    async def loads(self) -> tuple[list[Replica], list[Replica]]:
        """Targets and drafts; those that answer have been asked just now."""
        targets, drafts = self._targets.replicas, self._drafts.replicas
        await asyncio.gather(*(replica.ask() for replica in (*targets, *drafts) if replica.problem is None))
        return targets, drafts

    async def check(self) -> None:
        """Raises TandemError where no target answers now. Drafts are not asked: nobody needs one."""
        for replica in self._targets.ready:
            await replica.ask()
            if replica.state is State.READY:
                return
        await asyncio.gather(*(replica.ask() for replica in self._targets.replicas))
        if not self._targets.ready:
            raise self._targets.problem()

    async def readiness(self) -> AsyncGenerator[bool]:
        """Whether a target is ready: now, and whenever that changes."""
        told = None
        while True:
            change, is_ready = self._targets.change, bool(self._targets.ready)
            if is_ready is not told:
                told = is_ready
                yield is_ready
            await change.wait()

    def count(self, service: str, state: str) -> int:
        """Replicas of `draft`, `middle` or `target` in a state: `ready`, `failed` or `mismatched`."""
        groups = {"target": self._targets, "draft": self._drafts, "middle": self._middles}
        return groups[service].count(State(state))

    async def close(self) -> None:
        """Ends what is open."""
        await asyncio.gather(self._targets.close(), self._drafts.close(), self._middles.close())


def _connect(telemetry: Telemetry | None, tls: ClientTls | None, service: Service, address: Address) -> ChannelPool:
    calls = telemetry.calls(service.name) if telemetry is not None else ()
    return ChannelPool(address.endpoint, interceptors=calls, tls=tls, server_name=address.server_name)
