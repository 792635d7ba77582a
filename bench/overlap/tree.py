"""The draft's tree of what the text may become: grown at the likeliest place first, cut when an outcome is known."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bench.overlap.calibration import Calibration
from bench.overlap.recording import Text

# Entropy that is taken where nothing was recorded.
_ENTROPY_OFF = 1.0
# What is less likely than this, seen from the root, is not drafted.
_LEAST_REACH = 1e-3

#: Whether an outcome may have a branch: candidates of the block, candidates kept, rank of the token.
Allowed = Callable[[int, int, int], bool]


@dataclass(eq=False, slots=True)
class Node:
    """A prefix. kept, tail: where it stands in the recording (see `Text.row`); kept None: nowhere. reach: probability
    that the text goes this way, from the first root on. ready: when the draft has run it and knows its own next token,
    in ms; None while it has not. chance: of that token to be the text's; None where nobody asked. children: by rank of
    the last token among the draft's."""

    kept: int | None
    tail: int
    reach: float
    ready: float | None = None
    chance: float | None = None
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Of a node that is to be run. index: candidates before it, where it is of the block that is being verified. left:
    nodes that may still be run of its branch, where it is on one."""

    node: Node
    index: int | None
    left: int


class Tree:
    """Of one text. allowed: which outcomes get branches. nested: whether branches have branches, and no end."""

    def __init__(
        self, text: Text, calibration: Calibration, *, allowed: Allowed = lambda *outcome: True, nested: bool = False
    ) -> None:
        self._text = text
        self._calibration = calibration
        self._allowed = allowed
        self._nested = nested
        self._heap: list[tuple[float, int, Place]] = []
        self._count = 0
        self._block = self._longest = 0
        self.root = Node(0, 0, 1.0)

    def plant(self, root: Node, block: int, longest: int) -> None:
        """`root` is the true prefix; all that does not follow it is forgotten. block: candidates behind it whose
        outcomes may get branches. longest: most candidates of a branch, where these are not nested."""
        self.root, self._block, self._longest = root, block, longest
        self._heap = []
        self._expand(Place(root, 0, 0))

    def take(self, rows: int, asked: tuple[Node, int] | None = None) -> list[Place]:
        """What to run in the next step: the likeliest. asked: a node of the block and its index, that goes first."""
        places = []
        if asked is not None:
            places.append(Place(asked[0], asked[1], 0))
            self._heap = [entry for entry in self._heap if entry[2].node is not asked[0]]
            heapq.heapify(self._heap)
        while self._heap and len(places) < rows:
            places.append(heapq.heappop(self._heap)[2])
        return places

    def ran(self, places: list[Place], at: float) -> None:
        """A step over them has ended."""
        for place in places:
            place.node.ready = at
        for place in places:
            self._expand(place)

    def chain(self, node: Node) -> Iterator[Node]:
        """The node, then each one that the draft's own next token leads to."""
        following: Node | None = node
        while following is not None:
            yield following
            following = self._child(following, 0)

    def outcome(self, block: int) -> tuple[int, Node]:
        """What the target makes of a block behind the root: candidates kept, and the prefix that the next token ends,
        in the tree where it is."""
        node, text, true = self.root, self._text, self.root.kept
        assert true is not None
        kept = 0
        while kept < block and not text.errs(true):
            following = self._child(node, 0)
            assert following is not None
            node, kept, true = following, kept + 1, true + 1
        token, ranked = text.tokens[true], list(text.rows[true].tokens)
        rank = ranked.index(token) if token in ranked else len(ranked)
        found = self._child(node, rank) if rank <= len(self._calibration.shares) else None
        return kept, found or Node(true + 1, 0, node.reach)

    def _expand(self, place: Place) -> None:
        """Offers what may be run next at a node or behind it."""
        node, index = place.node, place.index
        if node.ready is None:
            if node.reach >= _LEAST_REACH * self.root.reach:
                self._count += 1
                heapq.heappush(self._heap, (-node.reach, self._count, place))
            return
        least = _LEAST_REACH * self.root.reach
        for rank in range(1 + len(self._calibration.shares)):
            if index is None and rank and not self._nested:
                return
            # Worked out before a node is made: most are never drafted.
            child = self._child(node, rank) if rank == 0 or self._reach(node, rank) >= least else None
            if child is None or child.reach < least:
                continue
            if index is not None and rank == 0 and index < self._block:
                self._expand(Place(child, index + 1, 0))
            elif index is not None:
                if self._allowed(self._block, index, rank):
                    self._expand(Place(child, None, self._longest))
            elif self._nested or place.left > 1:
                self._expand(Place(child, None, place.left - 1))

    def _child(self, node: Node, rank: int) -> Node | None:
        """None behind the end of the recording."""
        if rank in node.children:
            return node.children[rank]
        text, kept = self._text, node.kept
        row = None if kept is None else text.row(kept, node.tail)
        child = Node(None, 0, self._reach(node, rank))
        if row is not None and kept is not None and not node.tail:
            if kept >= len(text.tokens):
                return None
            if rank < len(row.tokens) and row.tokens[rank] == text.tokens[kept]:
                child.kept = kept + 1
            elif rank == 0:
                child.kept, child.tail = kept, 1
        elif row is not None and rank == 0:
            child.kept, child.tail = kept, node.tail + 1
        node.children[rank] = child
        return child

    def _reach(self, node: Node, rank: int) -> float:
        """Of the child of that rank."""
        if node.chance is None:
            row = None if node.kept is None else self._text.row(node.kept, node.tail)
            node.chance = self._calibration.acceptance(_ENTROPY_OFF if row is None else row.entropy)
        chance = node.chance
        return node.reach * (chance if rank == 0 else (1 - chance) * self._calibration.shares[rank - 1])
