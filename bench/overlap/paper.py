"""A replay on paper: the same recording, costs and policy as the services are measured with, in milliseconds that
nobody waits for. It says what a policy can reach before it is built, and afterwards what is lost elsewhere.

The draft makes step after step. Of the orchestrator it hears one way of the wire late, and all that it makes arrives
one way late: an outcome finds the block that foresaw it where the draft had run enough of it before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.overlap.calibration import Calibration, calibrate
from bench.overlap.costs import Costs
from bench.overlap.recording import Recording, Text
from bench.overlap.tree import Allowed, Node, Tree


@dataclass(frozen=True, slots=True)
class Policy:
    """asked: candidates of a block that is asked for. taken: most of one that is taken. least: fewer are not taken, the
    rest is asked for. rows: of a step of the draft, the asked-for one's included; 1 drafts nothing ahead. allowed,
    nested: see `Tree`."""

    asked: int
    taken: int
    least: int = 1
    rows: int = 16
    allowed: Allowed = lambda *outcome: True
    nested: bool = False


@dataclass(slots=True)
class Played:
    """All texts of a recording under one policy. hits, outcomes: by whether all candidates were kept. time: ms."""

    tokens: int = 0
    time: float = 0.0
    rounds: int = 0
    drafted: int = 0
    hits: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    outcomes: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.time * 1e3

    @property
    def hit_rate(self) -> float:
        return sum(self.hits.values()) / max(1, sum(self.outcomes.values()))


def play(
    recording: Recording, costs: Costs, policy: Policy, *, tokens: int = 128, calibration: Calibration | None = None
) -> Played:
    """One caller, text after text, `tokens` of each."""
    calibration = calibration or calibrate(recording)
    played = Played()
    for text in recording.texts:
        _Game(text, calibration, costs, policy, played, tokens).play()
    return played


def synchronous(recording: Recording, costs: Costs, length: int, *, tokens: int = 128) -> float:
    """Tokens per second where every block has `length` candidates and is asked for when the last outcome is known."""
    made, time = 0, 0.0
    for text in recording.texts:
        kept = 0
        while kept < tokens:
            kept += _accepted(text, kept, length) + 1
            time += costs.verify(length) + costs.round
            if length:
                time += 2 * costs.wire + length * costs.draft_step(1)
        made += kept
    return made / time * 1e3


def ideal(recording: Recording, costs: Costs, length: int, *, tokens: int = 128) -> float:
    """The same with a draft and a wire that cost nothing: what no drafting ahead can beat at this length."""
    free = Costs(costs.target, costs.target_positions, costs.target_more, draft=0.0, wire=0.0, round=0.0)
    return synchronous(recording, free, length, tokens=tokens)


def _accepted(text: Text, kept: int, length: int) -> int:
    accepted = 0
    while accepted < length and kept + accepted < len(text.tokens) and not text.errs(kept + accepted):
        accepted += 1
    return accepted


class _Game:
    def __init__(
        self, text: Text, calibration: Calibration, costs: Costs, policy: Policy, played: Played, tokens: int
    ) -> None:
        self._text, self._costs, self._policy, self._played, self._tokens = text, costs, policy, played, tokens
        self._tree = Tree(text, calibration, allowed=policy.allowed, nested=policy.nested)
        self._free = 0.0  # when the draft can begin its next step
        self._rooted = 0.0  # when it has heard of the present block: before that it can send nothing about its outcomes

    def play(self) -> None:
        costs, policy, tree = self._costs, self._policy, self._tree
        root, length, now = tree.root, 0, 0.0
        made = 0
        length, now = self._ask(root, now)
        while True:
            # The block's verification has begun at `now`.
            ends = now + costs.verify(length) + costs.round
            kept, following = tree.outcome(length)
            made += kept + 1
            self._played.rounds += 1
            if made >= self._tokens:
                break
            # The draft goes on until it hears of it; what it has pushed by then counts.
            self._run(ends + costs.wire)
            there = self._there(following, ends - costs.wire)
            self._played.outcomes[kept == length] += 1
            if there >= min(policy.least, policy.taken):
                self._played.hits[kept == length] += 1
                length, now = min(there, policy.taken), ends
                self._rooted = max(self._free, now + costs.wire)
                tree.plant(following, length, policy.taken)
            else:
                length, now = self._ask(following, ends)
        self._played.tokens += made
        self._played.time += ends

    def _ask(self, root: Node, now: float) -> tuple[int, float]:
        """Asks for a block behind `root`: its length, and when it is there."""
        costs, policy, tree = self._costs, self._policy, self._tree
        at = now + costs.wire
        self._free = max(self._free, at)
        chain = [node for node, _ in zip(tree.chain(root), range(policy.asked), strict=False)]
        tree.plant(root, len(chain), policy.taken)
        for index, node in enumerate(chain):
            if node.ready is None:
                self._step((node, index))
        self._rooted = self._free
        return len(chain), max(at, *(node.ready or 0.0 for node in chain)) + costs.wire

    def _run(self, until: float) -> None:
        """Steps that begin before `until`."""
        while self._free < until and self._policy.rows > 1:
            if not self._step():
                self._free = until

    def _step(self, asked: tuple[Node, int] | None = None) -> bool:
        """False where there is nothing to run."""
        places = self._tree.take(self._policy.rows, asked)
        if not places:
            return False
        self._played.drafted += len(places)
        self._free += self._costs.draft_step(len(places))
        self._tree.ran(places, self._free)
        return True

    def _there(self, root: Node, by: float) -> int:
        """Candidates behind `root` that the draft had sent by then."""
        if self._rooted > by:
            return 0
        count = 0
        for node in self._tree.chain(root):
            if node.ready is None or node.ready > by or count == self._policy.taken:
                break
            count += 1
        return count


def geometric(acceptance: float, rows: int, *, power: float = 1.0) -> Allowed:
    """SSD's fan-out (arXiv 2603.03251): so many corrections behind i kept candidates that it falls with i as
    acceptance**(i / (1 + power)), and for all kept the (1 - acceptance)**(-1 / (1 + power)) fold; `rows` in all."""
    sizes: dict[int, Sequence[int]] = {}

    def allowed(block: int, kept: int, rank: int) -> bool:
        if block not in sizes:
            shape = [acceptance ** (index / (1 + power)) for index in range(block + 1)]
            shape[-1] *= (1 - acceptance) ** (-1 / (1 + power))
            whole = sum(shape)
            sizes[block] = [max(1, round(rows * each / whole)) for each in shape]
        fan = sizes[block][kept]
        return rank < fan if kept == block else 1 <= rank <= fan

    return allowed


def main_line(block: int, kept: int, rank: int) -> bool:
    """The only outcome that is foreseen: all kept, then the draft's own next token."""
    return kept == block and rank == 0
