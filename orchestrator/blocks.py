"""Blocks, as the orchestrator cuts them."""

from __future__ import annotations

from tandem.v1 import block_pb2, target_pb2


def first(block: block_pb2.Block, count: int) -> block_pb2.Block:
    """Its first `count` candidates."""
    return block_pb2.Block(
        position=block.position,
        token_ids=block.token_ids[:count],
        log_probabilities=block.log_probabilities[:count],
        entropies=block.entropies[:count],
        distributions=block.distributions[:count],
    )


def considered(block: block_pb2.Block, verified: target_pb2.VerifiedBlock) -> block_pb2.Block:
    """What the target has verified of a block; the others count as never submitted."""
    return first(block, verified.considered) if verified.HasField("considered") else block
