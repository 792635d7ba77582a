"""The blocks of one rule side by side, as tensors, and their numbers taken apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tandem.distributions import (
    CompressedRow,
    Heads,
    compress_rows,
    probabilities,
    rows_from,
    stack,
    truncate_rows,
)
from tandem.gumbel import Counters
from tandem.noise import NoiseStream, Purpose, uniforms
from tandem.sampling import NotFiniteError
from tandem.transfers import join, upload
from target_service.blocks import Block, BlockNumbers, Token


class BlockBatch:
    """N positions and M candidates of several blocks, block after block; a block has a position more than candidates.

    The blocks agree in rule, max_entries, drafts, whether they are trees, and whether they bring distributions (one
    without candidates has none). log_p: fp32 [N, V]; of what p was cut to where they draft.
    """

    def __init__(self, blocks: Sequence[Block], log_p: Sequence[Tensor]) -> None:
        self.blocks = blocks
        self.rule = blocks[0].rule
        self.log_p = join(log_p)
        self.device = self.log_p.device
        self._cut = truncate_rows(self.log_p, blocks[0].max_entries) if blocks[0].drafts else None
        if self._cut is not None:
            self.log_p = self.law().log().to(torch.float32)
        self._counts = [len(block.candidates) for block in blocks]
        self.is_tree = bool(len(blocks[0].tree))
        self._starts = list(accumulate((count + 1 for count in self._counts), initial=0))  # of positions
        self._firsts = list(accumulate(self._counts, initial=0))  # of candidates

    def law(self) -> Tensor:
        """p: float64 [N, V], the caller's own. Where the blocks draft: to the last bit what `law` makes of the rows
        that are sent, which the next model takes for q."""
        if self._cut is None:
            return probabilities(self.log_p)
        zeros = torch.zeros_like(self.log_p, dtype=torch.float64)
        return zeros.scatter_(-1, self._cut.token_ids, self._cut.law())

    @cached_property
    def _places(self) -> list[int]:
        if self.is_tree:
            trees = zip(self._starts, self.blocks, strict=False)
            return [start + 1 + parent for start, block in trees for parent in block.tree.parents]
        starts = zip(self._starts, self._counts, strict=False)
        return [start + at for start, count in starts for at in range(count)]

    @cached_property
    def _candidates(self) -> Tensor:
        tokens = [token for block in self.blocks for token in block.candidates]
        return upload([self._places, tokens], torch.long, self.device)

    @property
    def place(self) -> Tensor:
        """Position of each candidate, that after its parent, as a place in [0, N): int64 [M]."""
        return self._candidates[0]

    @property
    def x(self) -> Tensor:
        """The candidates: int64 [M]."""
        return self._candidates[1]

    def of_candidates(self, rows: Tensor) -> Tensor:
        """The rows [M, ...] of the candidates out of those of all positions; of one block without a copy."""
        in_order = len(self.blocks) == 1 and not self.is_tree
        return rows[: self._counts[0]] if in_order else rows.index_select(0, self.place)

    def heads(self) -> Heads | None:
        """q of the candidates; None where none was sent."""
        rows = [row for block in self.blocks for row in block.rows or ()]
        return stack(rows, self.device) if rows else None

    @cached_property
    def _noise(self) -> tuple[list[NoiseStream], list[int], list[int]]:
        """Stream, absolute position and attempt of each position."""
        if self.is_tree:
            depths = [(0, *(depth + 1 for depth in block.tree.depths)) for block in self.blocks]
        else:
            depths = [tuple(range(count + 1)) for count in self._counts]
        each = [(block, at) for block, own in zip(self.blocks, depths, strict=True) for at in own]
        streams, positions = [block.noise for block, _ in each], [block.position + at for block, at in each]
        return streams, positions, [block.attempt for block, _ in each]

    @cached_property
    def families(self) -> list[list[int]]:
        """Of trees: the candidates of each group of siblings, as places in [0, M), in the order of the groups."""
        return [
            [first + child for child in children]
            for first, block in zip(self._firsts, self.blocks, strict=False)
            for children in block.tree.families.values()
        ]

    def counters(self) -> Counters:
        """Of the coupled noise of all positions."""
        streams, positions, _ = self._noise
        return Counters.of(streams, positions)

    def uniforms(self, purpose: Purpose) -> Tensor:
        """Those of the target's own tokens [N], or of corrections, float64: [M], of trees one for each family."""
        streams, positions, attempts = self._noise
        if purpose is Purpose.CORRECTION:
            if self.is_tree:
                rows = [self._places[children[0]] for children in self.families]
            else:
                rows = sorted(set(range(len(streams))) - {start - 1 for start in self._starts[1:]})
            streams, positions = [streams[row] for row in rows], [positions[row] for row in rows]
            attempts = [attempts[row] for row in rows]
        return upload(uniforms(streams, purpose, positions, attempts), torch.float64, self.device)

    def grid(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Candidates in a table with a line for each block that has any.

        Which candidate stands in a cell, int64 [B, n]; whether it is filled and whether it holds the last one of its
        line, bool [B, n]; and the cell of each candidate, int64 [M], in the order of the lines.
        """
        lines = [(first, count) for first, count in zip(self._firsts, self._counts, strict=False) if count]
        width = max((count for _, count in lines), default=0)
        candidate = [[first + min(at, count - 1) for at in range(width)] for first, count in lines]
        cells = [line * width + at for line, (_, count) in enumerate(lines) for at in range(count)]
        counts = upload([[count] for _, count in lines], torch.long, self.device).view(-1, 1)
        at = torch.arange(width, device=self.device)
        table = upload(candidate, torch.long, self.device).view(-1, width)
        return table, at < counts, at == counts - 1, upload(cells, torch.long, self.device)

    def turns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of trees, int64 but for one: the first candidate of each family [F]; the candidates of each by turn, the last
        one repeated [F, k], and which of these there are, bool [F, k]; family and turn of each candidate [M]."""
        width = max(map(len, self.families))
        first = upload([children[0] for children in self.families], torch.long, self.device)
        table = [[children[min(at, len(children) - 1)] for at in range(width)] for children in self.families]
        counts = upload([[len(children)] for children in self.families], torch.long, self.device)
        places = {child: (at, turn) for at, own in enumerate(self.families) for turn, child in enumerate(own)}
        family, turn = upload([places[child] for child in range(len(places))], torch.long, self.device).unbind(-1)
        filled = torch.arange(width, device=self.device) < counts
        return first, upload(table, torch.long, self.device), filled, family, turn

    def cut_rows(self) -> dict[str, Tensor]:
        """What was asked for of p: columns [N, ...], none where nothing was."""
        entries = self.blocks[0].max_entries
        if not entries:
            return {}
        if self._cut is not None:
            return self._cut.columns()
        masses = [block.mass for block, count in zip(self.blocks, self._counts, strict=True) for _ in range(count + 1)]
        return compress_rows(self.log_p, entries, masses).columns()

    def tokens(self, columns: Mapping[str, Tensor]) -> list[Token | ValueError]:
        """The target's own token at each block's first position, out of `verification._positions` on the host."""
        rows = rows_from(columns) if self.blocks[0].max_entries else [None] * len(self.blocks)
        values = zip(*(columns[name].tolist() for name in ("broken", "own", "own_log_p", "entropies")), strict=True)
        found: list[Token | ValueError] = []
        for (broken, token, log_p, entropy), row in zip(values, rows, strict=True):
            found.append(_not_finite() if broken else Token(int(token), log_p, entropy, row))
        return found

    def numbers(self, columns: Mapping[str, Tensor]) -> list[BlockNumbers | ValueError]:
        """Each block's numbers, out of `verification._positions` and `_candidates` on the host."""
        rows = rows_from(columns) if self.blocks[0].max_entries else []
        values = {name: column.tolist() for name, column in columns.items() if column.dim() == 1}
        return [self._numbers_of(block, values, rows) for block in range(len(self.blocks))]

    def _numbers_of(
        self, block: int, columns: Mapping[str, list[float]], rows: Sequence[CompressedRow]
    ) -> BlockNumbers | ValueError:
        at = slice(self._starts[block], self._starts[block + 1])
        of = slice(self._firsts[block], self._firsts[block + 1])
        if any(columns["broken"][at]):
            return _not_finite()
        if any(stray := columns["stray"][of]):
            return ValueError(f"candidate {stray.index(1)} is not in its own distribution")
        numbers = BlockNumbers(
            acceptance=columns["acceptance"][of],
            corrections=list(map(int, columns["corrections"][of])),
            target_tokens=list(map(int, columns["own"][at])),
            log_p=columns["log_p"][of],
            max_log_p=columns["max_log_p"][at],
            target_log_p=columns["own_log_p"][at],
            correction_log_p=columns["correction_log_p"][of],
            entropies=columns["entropies"][at],
            top3_entropies=columns["top3_entropies"][at],
            in_support=list(map(bool, columns["in_support"][of])),
            rows=list(rows[at]),
        )
        if "lower" in columns:
            numbers.total_variations = columns["total_variations"][of]
            numbers.distances_lower, numbers.distances_upper = columns["lower"][of], columns["upper"][of]
        return numbers


def _not_finite() -> NotFiniteError:
    return NotFiniteError("logits are not finite, or the sampling parameters leave no token")
