"""A tree of candidates from a draft model: a step for each level, all of its places in one pass.

A place whose law is known gets as many candidates as the shape says; those that have children in the shape are fed,
side by side, and give the laws of the next level.

Which trees may be submitted under RATIO and BLOCK [ours: the rule for chains (Leviathan et al., arXiv 2211.17192),
taken to trees]. How many candidates a place gets may depend on all that was drawn above it and beside it, and on its
own law, never on these candidates themselves or on what stands below. For let F be all draws up to the depth of a
place, and its number of candidates a function of F and of its law. Given F and the decisions above, its candidates are
drawn from that law without replacement, so that recursive rejection emits the target's law there, whatever the number,
0 included (then the bonus does); by induction over depth the text has the target's law. Where the number depends on the
candidates, what is submitted was not drawn from q: `tests/statistics/test_tree_law.py` has both sides of this. So the
shape is fixed before the round, a limit ends a path by leaving a place empty for its law or for what stands above it,
and no candidate that was drawn is left out. Under GREEDY and COUPLED any tree may be submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from torch import Tensor

from draft_service.drafters.base import Candidates
from draft_service.drafters.drawing import Draw
from draft_service.drafters.growth import Voice
from draft_service.drafters.siblings import Place, Siblings, draw_siblings
from tandem.block_limits import Limiter
from tandem.inference import runner
from tandem.sampling import NotFiniteError
from tandem.trees import ROOT, Tree
from tandem.v1 import draft_pb2


@dataclass(slots=True)
class _Node:
    """A place behind a candidate, or behind the text. in_...: that candidate's place in the shape, in the block, and in
    the tree that was fed; ROOT for the text, and while it has not been fed."""

    voice: Voice
    limiter: Limiter
    in_shape: int = ROOT
    in_block: int = ROOT
    in_cache: int = ROOT
    parent_in_cache: int = ROOT


class TreeDrafting:
    """One tree in the making; runs on the engine's thread. block: what has been drawn."""

    def __init__(
        self,
        sequence: runner.Sequence,
        voice: Voice,
        tokens: Sequence[int],
        cached: int,
        round_number: int,
        limits: draft_pb2.DraftLimits,
        shape: Tree,
    ) -> None:
        """voice: of `tokens`, the text, of which the cache may hold the first `cached`. shape: level by level."""
        self.sequence = sequence
        self.block = Candidates()
        self._tokens = tokens
        self._cached = cached
        self._round = round_number
        self._shape = shape
        self._open = [_Node(voice, Limiter(limits))]  # places that are being fed
        self._fed = 0  # candidates
        self._started = False

    def next_block(self) -> tuple[Sequence[int], int] | tuple[Sequence[int], int, Sequence[int]] | None:
        if not self._started:
            self._started = True
            self.sequence.keep_path(self._tokens)
            self.sequence.truncate(min(self.sequence.length, self._cached, len(self._tokens) - 1))
            return self._tokens[self.sequence.length :], 1
        if not self._open:
            return None
        for node in self._open:
            node.in_cache = self._fed
            self._fed += 1
        token_ids = [self.block.token_ids[node.in_block] for node in self._open]
        return token_ids, len(self._open), [node.parent_in_cache for node in self._open]

    @classmethod
    def receive_all(cls, works: Sequence[TreeDrafting], logits: Sequence[Tensor]) -> list[Exception | None]:
        places = [place for work in works for place in work._places()]
        rows = [own[at : at + 1] for own in logits for at in range(len(own))]
        drawn = iter(draw_siblings(places, rows))
        return [work._take([next(drawn) for _ in work._open]) for work in works]

    def _places(self) -> list[Place]:
        spec, start = self._open[0].voice.spec, len(self._tokens)
        places = []
        for node in self._open:
            children = self._shape.children(node.in_shape)
            position = start + self._shape.depths[children[0]]
            draw = Draw(
                spec.verification, spec.noise, position, self._round, spec.max_entries, spec.mass,
                node.voice.chain.forbids,
            )  # fmt: skip
            places.append(Place(node.voice, draw, len(children), start + children[0]))
        return places

    def _take(self, drawn: Sequence[Siblings | NotFiniteError]) -> Exception | None:
        failed = next((each for each in drawn if isinstance(each, NotFiniteError)), None)
        if failed is not None:
            return failed
        places, self._open = self._open, []
        for node, siblings in zip(places, drawn, strict=True):
            assert isinstance(siblings, Siblings)
            if siblings.token_ids and not node.limiter.refuses(siblings.entropy):
                self._add(node, siblings)
        return None

    def _add(self, parent: _Node, siblings: Siblings) -> None:
        """All of them; those that have a place behind them go on, unless a limit ends their path."""
        block, spec = self.block, parent.voice.spec
        if siblings.row is not None:
            block.rows.append(siblings.row)
        columns = zip(
            self._shape.children(parent.in_shape), siblings.token_ids, siblings.log_probabilities, strict=False
        )
        for in_shape, token, log_probability in columns:
            in_block = len(block.token_ids)
            block.token_ids.append(token)
            block.log_probabilities.append(log_probability)
            block.entropies.append(siblings.entropy)
            block.parents.append(parent.in_block)
            limiter = copy(parent.limiter)
            ends = limiter.after(siblings.entropy, log_probability) is not None or token in spec.stop_token_ids
            is_last = len(self._tokens) + self._shape.depths[in_shape] + 1 >= parent.voice.context_length
            if ends or is_last or not self._shape.children(in_shape):
                continue
            history = parent.voice.history
            voice = parent.voice.after(history, len(history.generated), token)
            self._open.append(_Node(voice, limiter, in_shape, in_block, parent_in_cache=parent.in_cache))
