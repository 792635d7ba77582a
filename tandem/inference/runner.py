"""One forward pass for tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.inference.attention import NAME
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.capacity import GPU_SHARE, blocks_for
from tandem.inference.loaded import LoadedModel
from tandem.inference.packing import pack_linears
from tandem.inference.sequence import Sequence, SequenceClosedError
from tandem.inference.states import states_noted
from tandem.inference.step import Step
from tandem.inference.support import check_supported, probe
from tandem.trees import Tree

__all__ = [
    "Block", "CacheTooSmallError", "Chunk", "ContextFullError", "ModelRunner", "Sequence", "SequenceClosedError",
]  # fmt: skip


# Rows of a step that are not rounded up, and to what multiples others are, up to how many. Blocks of one caller are
# among the finer ones: rounded to multiples of 8, verifying 9 tokens took as long as 16.
_EXACT_ROWS = 8
_GRAINS = ((24, 2), (64, 8), (256, 32), (1 << 62, 128))


class ContextFullError(ValueError):
    """A sequence would outgrow the model's context."""


class CacheTooSmallError(ValueError):
    """A sequence would outgrow the whole key-value cache."""


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens to append to a sequence, at least one; logits of the last `logits_rows` of them are wanted.

    parents: where the last of them are candidates of a tree, the parent of each, by its place in the tree that the
    sequence then ends with; ROOT for the text before it. A sequence that ends with a tree takes nothing else.
    """

    sequence: Sequence
    token_ids: Seq[int]
    logits_rows: int
    parents: Seq[int] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` tokens of a sequence that are not in the cache; logits of the last `logits_rows` are wanted."""

    sequence: Sequence
    count: int
    logits_rows: int


class ModelRunner:
    """Runs one model over one key-value cache. Belongs to one thread."""

    def __init__(
        self, loaded: LoadedModel, *, cache_bytes: int | None = None, gpu_share: float = GPU_SHARE
    ) -> None:
        """Takes the model over: its linear layers are laid out anew. cache_bytes, gpu_share: see `blocks_for`.

        Raises UnsupportedModelError, naming the model, where its attention cannot be served, and ModelError where
        there is no memory for the cache.
        """
        self.loaded = loaded
        self._model = loaded.model
        self._embeddings = int(loaded.model.get_input_embeddings().weight.shape[0])  # type: ignore[index, union-attr]
        check_supported(self._model)
        self._model.set_attn_implementation(NAME)
        pack_linears(self._model)
        with torch.inference_mode():
            shape = probe(self._model, lambda step: self._run([0, 0], [0, 1], [1], step))
            self.cache = self._make_cache(shape, cache_bytes, gpu_share)

    def open(self, priority: int = 0) -> Sequence:
        return Sequence(self.cache.table(), priority)

    def check(self, block: Block) -> None:
        """Raises SequenceClosedError, ContextFullError, CacheTooSmallError, or ValueError for a block that is none."""
        if block.sequence.closed:
            raise SequenceClosedError("the sequence is closed")
        count = len(block.token_ids)
        if not 0 <= block.logits_rows <= count or count == 0:
            raise ValueError(f"a block of {count} tokens cannot give {block.logits_rows} rows of logits")
        if min(block.token_ids) < 0 or max(block.token_ids) >= self._embeddings:
            raise ValueError(f"token ids must lie in [0, {self._embeddings})")
        sequence, context, capacity = block.sequence, self.loaded.context_length, self.cache.capacity
        needed = sequence.length + count
        tree = _tree_after(block)
        length = needed - len(tree) + tree.height
        if length > context:
            raise ContextFullError(f"{length} tokens do not fit the context of {context}")
        if needed > capacity:
            raise CacheTooSmallError(f"{needed} tokens do not fit the key-value cache, which holds {capacity}")

    def forward(self, blocks: Seq[Block]) -> list[Tensor]:
        """Appends each block to its sequence and runs all that is not cached yet, in one pass.

        Returns logits fp32 [logits_rows, V] of each block. Raises what `check` and `run` raise; every sequence is
        then as it was.
        """
        if len({id(block.sequence) for block in blocks}) < len(blocks):
            raise ValueError("a sequence can have one block in a step")
        for block in blocks:
            self.check(block)
        lengths = [block.sequence.length for block in blocks]
        for block in blocks:
            block.sequence.extend(block.token_ids, block.parents)
        try:
            return self.run([Chunk(block.sequence, block.sequence.missing, block.logits_rows) for block in blocks])
        except Exception:
            for block, length in zip(blocks, lengths, strict=True):
                block.sequence.truncate(length)
            raise

    @torch.inference_mode()
    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        """One pass over chunks of different sequences: logits fp32 [logits_rows, V] of each.

        Raises ValueError where the cache has no room; the caller makes some. Whatever is raised, no sequence has more
        or fewer valid entries than before.
        """
        tables = [chunk.sequence.table for chunk in chunks]
        try:
            for chunk in chunks:
                chunk.sequence.table.reserve(chunk.count)
            tokens: list[int] = []
            positions: list[int] = []
            wanted: list[int] = []
            for chunk in chunks:
                past, end = chunk.sequence.cached, chunk.sequence.cached + chunk.count
                tokens.extend(chunk.sequence.tokens[past:end])
                positions.extend(chunk.sequence.positions(past, end))
                wanted.extend(range(len(tokens) - chunk.logits_rows, len(tokens)))
            step = Step(
                self.cache,
                [
                    (chunk.sequence.table, chunk.count, chunk.sequence.tree_until(chunk.sequence.cached + chunk.count))
                    for chunk in chunks
                ],
            )
            with states_noted(self._model, chunks):
                logits = self._run(tokens, positions, wanted, step)
        except BaseException:
            for table in tables:
                table.truncate(table.length)  # what was reserved
            raise
        for chunk in chunks:
            chunk.sequence.advance(chunk.count, unconfirmed=max(0, chunk.logits_rows - 1))
        return list(logits.split([chunk.logits_rows for chunk in chunks]))

    def _make_cache(self, shape: EntryShape, cache_bytes: int | None, gpu_share: float) -> KeyValueCache:
        blocks = blocks_for(shape, self.loaded.device, cache_bytes=cache_bytes, gpu_share=gpu_share)
        return KeyValueCache(shape, blocks, self.loaded.device)

    def _run(self, tokens: Seq[int], positions: Seq[int], wanted: Seq[int], step: Step) -> Tensor:
        device, count = self.loaded.device, len(tokens)
        # The output layer is run for the rows that are wanted only; it must have at least one.
        filling = [0] * self._filling(count)
        rows = list(wanted) or [count - 1]
        padded = rows + rows[-1:] * self._filling(len(rows))
        # As many as the row has would be mistaken below for all of them, in order.
        keep = torch.tensor(padded if len(padded) < count + len(filling) else rows, device=device)
        logits = self._forward(
            torch.tensor([[*tokens, *filling]], device=device),
            torch.tensor([[*positions, *filling]], device=device),
            keep,
            step,
        )
        if len(logits) != len(keep):  # a model that knows no `logits_to_keep`
            logits = logits[keep]
        return logits[: len(wanted)].float()

    def _forward(self, tokens: Tensor, positions: Tensor, keep: Tensor, step: Step) -> Tensor:
        """Logits [n, V], of the rows `keep` where the model knows how; tokens, positions: int64 [1, T]."""
        return self._model(
            input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=keep, tandem_step=step
        ).logits[0]

    def _filling(self, rows: int) -> int:
        """Rows to add to so many, that matrices come in few sizes.

        The CPU's library makes a kernel for each number of rows that it meets, which takes milliseconds, and keeps it,
        which takes most of a megabyte for each shape of weights.
        """
        if self.loaded.device.type != "cpu" or rows <= _EXACT_ROWS:
            return 0
        grain = next((grain for most, grain in _GRAINS if rows <= most), _GRAINS[-1][1])
        return -rows % grain


def _tree_after(block: Block) -> Tree:
    """What the sequence ends with once it has the block. Raises ValueError for parents that make no tree."""
    before, count = block.sequence.tree, len(block.parents)
    if count > len(block.token_ids) or (len(before) and count < len(block.token_ids)):
        raise ValueError(f"{len(block.token_ids)} tokens with {count} parents after a tree of {len(before)}")
    return Tree((*before.parents, *block.parents)) if count else before
