"""Where a completion runs: a place at a target and, where it speculates, one at a draft that fits that target."""

from __future__ import annotations

import asyncio
from typing import Self

from orchestrator.replicas.fit import fits
from orchestrator.replicas.group import Group
from orchestrator.replicas.lease import Lease
from orchestrator.replicas.replica import Replica
from orchestrator.replicas.search import Search
from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import ModelInfo


class Pair:
    """target, draft: the places; draft is None where none is wanted, or there has been none yet. As a context manager
    it gives both up in the end.

    The completions of one request share their prompt: they begin at one pair, where it is taken in once.
    """

    def __init__(self, search: Search, targets: Group, drafts: Group, target: Lease, draft: Lease | None) -> None:
        """search: that has found the target."""
        self.target = target
        self.draft = draft
        self._search = search
        self._targets = targets
        self._drafts = drafts
        self._tried = {draft.replica} if draft is not None else set[Replica]()
        self._avoided: set[Replica] = set()

    @classmethod
    async def find(
        cls,
        targets: Group,
        drafts: Group,
        *,
        timeout: float,
        speculates: bool,
        patience: float | None = None,
        priority: int = 0,
    ) -> Pair:
        """Waits for a target, for `timeout` seconds at most, and for a draft only until it is known whether there is
        one. Raises TandemError: no target, or no draft but such as cannot fit. patience: seconds for which a completion
        that has begun waits for another target. priority: in waiting for one that has room."""
        search = Search(targets, timeout, patience=patience, priority=priority)
        target = Lease(await search.find())
        search.keep_to(target.model)
        try:
            draft = await _find_draft(drafts, target.model, timeout) if speculates else None
        except BaseException:
            target.release()
            raise
        for group in (targets, drafts):
            group.budget.began()
        return cls(search, targets, drafts, target, Lease(draft) if draft is not None else None)

    def another(self) -> Pair:
        """For another completion of the request."""
        draft = Lease(self.draft.replica) if self.draft is not None else None
        return Pair(self._search.again(), self._targets, self._drafts, Lease(self.target.replica), draft)

    def settle(self) -> None:
        """The target has done what it was asked for: from now on the text is its model's."""
        self._search.settle(self.target.model)

    async def next_target(self, error: TandemError) -> None:
        """Goes to another target, or to this one again once it has come back, after this one has not taken the
        completion or has been lost. Raises TandemError where none is left: that of the last one, or why there is no
        other."""
        self._search.refused(error)
        self.target.release()  # while it waits it takes no place
        self.target.move(await self._search.find())
        if not await self._targets.budget.take(self._search.left):
            raise error

    def next_draft(self) -> bool:
        """Goes to another draft that is ready, after this one has not taken the completion; whether there is one."""
        assert self.draft is not None
        replica = self._choose_draft(self._tried | self._avoided)
        if replica is None:
            return False
        self._tried.add(replica)
        self.draft.move(replica)
        return True

    async def draft_again(self) -> None:
        """Goes to a draft where there was none to begin with, or after it has been lost: any that is ready, also that
        one. Raises TandemError where there is none now."""
        replica = self._choose_draft(self._avoided)
        if replica is None or (self.draft is not None and not await self._drafts.budget.take(0.0)):
            raise self._drafts.service.error("no draft can be used now")
        self._tried = {replica}
        if self.draft is None:
            self.draft = Lease(replica)
        else:
            self.draft.move(replica)

    def avoid_draft(self) -> None:
        """What the draft makes is of no use for this completion."""
        assert self.draft is not None
        self._avoided.add(self.draft.replica)

    @property
    def draft_change(self) -> asyncio.Event:
        """Set when a draft may have come."""
        return self._drafts.change

    def _choose_draft(self, without: set[Replica]) -> Replica | None:
        return self._drafts.choose(lambda replica: replica not in without and _fits(replica, self.target.model))

    def release(self) -> None:
        """May be called at any time, also twice."""
        self.target.release()
        if self.draft is not None:
            self.draft.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


async def _find_draft(drafts: Group, target: ModelInfo, timeout: float) -> Replica | None:
    """A draft that fits the target; None where none is ready. Raises TandemError where none can fit: that is the
    operator's mistake, not a draft that is missing."""
    replica = await drafts.choose_settled(lambda replica: _fits(replica, target), timeout=timeout)
    if replica is None and (mismatch := drafts.mismatch()) is not None:
        raise mismatch
    return replica


def _fits(draft: Replica, target: ModelInfo) -> bool:
    return draft.model is not None and fits(draft.model, target)


class MiddlePair(Pair):
    """The middle of a stack in the target's place, and the draft below it. A middle that is lost is not replaced: the
    completion goes on without one."""

    def __init__(self, middles: Group, drafts: Group, middle: Replica, draft: Replica | None) -> None:
        super().__init__(Search(middles, 0.0), middles, drafts, Lease(middle), None if draft is None else Lease(draft))

    def settle(self) -> None:
        """Its text binds nobody."""

    async def next_target(self, error: TandemError) -> None:
        """Raises `error`."""
        raise error
