"""The look ahead of one completion: asks for it with each block, and finds the next block in what has come."""

from __future__ import annotations

from orchestrator.account import Account
from orchestrator.look_ahead.asking import Asking
from orchestrator.look_ahead.foreseen import Ahead, Cut, Foreseen, cut
from orchestrator.look_ahead.learnt import Learnt
from orchestrator.look_ahead.tally import Found, Tally
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import RoundOutcome
from orchestrator.watch import Watch
from tandem.v1 import block_pb2, draft_pb2


class Sight:
    """foreseen: what has come, from whichever draft there is; emptied by `lose`."""

    def __init__(self, learnt: Learnt | None, settings: OrchestratorSettings, account: Account, watch: Watch) -> None:
        """learnt: None where nothing is to be foreseen."""
        self.foreseen = Foreseen()
        self.asking = Asking()
        self._learnt = learnt
        self._watch = watch
        self._bytes = settings.look_ahead_bytes
        most = settings.look_ahead_branches
        if learnt is not None and learnt.most_branches is not None:
            most = min(most, learnt.most_branches)
        self._branches = most if learnt is not None else 0
        self._tally = Tally(self.foreseen.pushed)
        if self._branches:
            account.look_ahead = self._tally
        self._told = 0, 0, 0  # of what was pushed

    def request(self, limits: draft_pb2.DraftLimits) -> draft_pb2.LookAhead | None:
        """What may be drafted ahead: blocks under such limits. None for nothing."""
        if not self._branches or not limits.max_tokens:
            return None
        assert self._learnt is not None
        return self._learnt.message(self._branches, limits, self._bytes, self.asking.usual_seconds)

    def find(
        self, round_number: int, continuation: block_pb2.Continuation, drafted: int, limits: draft_pb2.DraftLimits
    ) -> Cut | None:
        """The block of a round, if it is there and long enough. drafted: candidates of the block before."""
        base, kept = self.foreseen.base, continuation.kept
        if (
            base is None
            or round_number != base.round + 1
            or continuation.position != base.position + kept
            or len(continuation.token_ids) != 1
        ):
            return None  # the target has gone on alone meanwhile
        if not self.foreseen.is_served:
            return None
        found, block = self._find(kept, continuation.token_ids[0], drafted, limits)
        self._tally.found[found, kept == drafted] += 1
        self._watch.foreseen(found, all_kept=kept == drafted)
        self._tell()
        if block is not None:
            size = len(block.block.token_ids)
            hidden = self.asking.seconds(size)
            self._tally.taken += size
            self._tally.hidden += hidden
            self._watch.taken(size, hidden)
        return block

    def _find(self, kept: int, token: int, drafted: int, limits: draft_pb2.DraftLimits) -> tuple[Found, Cut | None]:
        assert self._learnt is not None
        tokens = self.foreseen.tokens_after(kept)
        if kept < drafted:
            self._learnt.corrections.add(tokens, token)
        if (ahead := self.foreseen.take((kept, token))) is not None:
            block = self._enough(ahead, limits)
            return (Found.SHORT, None) if block is None else (Found.HIT, block)
        if not self.foreseen.outcomes:
            return Found.TOO_LATE, None
        return (Found.OTHER_TOKEN if tokens else Found.NO_BRANCH), None

    def _enough(self, ahead: Ahead, limits: draft_pb2.DraftLimits) -> Cut | None:
        """What the limits leave of it; None where that is to be longer. Whether it is depends on distributions and on
        times, never on what was drawn: every exact rule stays exact."""
        assert self._learnt is not None
        block = cut(ahead, limits)
        if block.is_whole:
            return block
        there = len(block.block.token_ids)
        if not self._learnt.may_shorten or not there:
            return None
        if block.is_ended:
            return block
        curve = self._learnt.curve
        survival = self._learnt.survival(list(block.block.entropies))
        return None if self.asking.pays(survival, curve.mean, limits.max_tokens - there) else block

    def learn(self, outcome: RoundOutcome) -> None:
        """What became of a block."""
        if self._branches and self._learnt is not None:
            for entropy, acceptance in zip(outcome.entropies, outcome.acceptances, strict=False):
                self._learnt.curve.add(entropy, acceptance)

    def lose(self) -> None:
        """With the draft."""
        self._tell()
        self.foreseen.begin(None)

    def _tell(self) -> None:
        pushed, (tokens, size, stale) = self.foreseen.pushed, self._told
        self._watch.pushed(pushed.tokens - tokens, pushed.size - size, pushed.stale - stale)
        self._told = pushed.tokens, pushed.size, pushed.stale
