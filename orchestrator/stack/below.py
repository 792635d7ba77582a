"""What is below the target in the completions of one request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.account import Account
from orchestrator.policy import accept_name
from orchestrator.replicas import Pair, identity
from orchestrator.stack.choice import Stack, Stacks, StacksByKey
from orchestrator.stopping import Experience, Experiences, Goodput, StopRule
from orchestrator.upstream import Upstream
from tandem.v1 import completion_pb2, policy_pb2

_NAMED = {
    policy_pb2.STACK_DRAFT: Stack.DRAFT,
    policy_pb2.STACK_MIDDLE: Stack.MIDDLE,
    policy_pb2.STACK_BOTH: Stack.BOTH,
}


class Below:
    """Of one request, chosen before anything is planned: what a stop rule learns is of its stack."""

    def __init__(
        self, request: completion_pb2.CompleteRequest, pair: Pair, upstream: Upstream,
        experiences: Experiences, known: StacksByKey,
    ) -> None:  # fmt: skip
        """pair: where the request runs. known: of all requests."""
        self._upstream = upstream
        self._experiences = experiences
        self._target = pair.target
        self._draft = identity(pair.draft.model) if pair.draft is not None else None
        self._rule = accept_name(request.speculation.accept), request.sampling.temperature == 0
        self._middle: object = None
        self._stacks: Stacks | None = None
        self.stack = self._choose(request, pair, known)

    def _choose(self, request: completion_pb2.CompleteRequest, pair: Pair, known: StacksByKey) -> Stack:
        policy, middle = request.speculation, self._upstream.middle_model()
        follows_one_text = request.HasField("grammar")
        if policy.off or middle is None or follows_one_text or policy.HasField("tree"):  # see `check_stack`
            return Stack.DRAFT
        self._middle = identity(middle)
        there = {Stack.MIDDLE} if pair.draft is None else set(Stack)
        if policy.stack in _NAMED:
            named = _NAMED[policy.stack]
            return Stack.MIDDLE if named is Stack.BOTH and named not in there else named
        self._stacks = known.of((identity(self._target.model), self._draft, self._middle, *self._rule))
        return self._stacks.choose(there)

    def experience(self) -> Experience:
        """What its completions learn together: costs and acceptance of what proposes to the target."""
        model = identity(self._target.model)
        if self.stack is Stack.DRAFT:
            return self._experiences.of(self._target.replica, model, self._draft)
        proposer = self.stack, self._middle, self._draft
        return self._experiences.of(self._target.replica, (model, self.stack), proposer)

    @contextmanager
    def middle(self, pair: Pair) -> Iterator[tuple[Pair, StopRule] | None]:
        """Where the middle of one completion runs, and what ends the blocks of the draft below it; None where there is
        to be none, or it has gone meanwhile."""
        found = None
        if self.stack is not Stack.DRAFT:
            found = self._upstream.middle(pair, with_draft=self.stack is Stack.BOTH)
        if found is None:
            yield None
            return
        experience = self._experiences.of(found.target.replica, identity(found.target.model), self._draft)
        with found:
            experience.costs.sessions += 1
            try:
                yield found, Goodput(experience=experience, key=("middle", *self._rule))
            finally:
                experience.costs.sessions -= 1

    def learn(self, account: Account) -> None:
        """Of a completion that has ended."""
        if self._stacks is not None and (account.middle is not None) == (self.stack is not Stack.DRAFT):
            self._stacks.learn(self.stack, *account.pace)
