"""How many blocks the cache of a group has: the same in each process, since they use the same ones."""

from __future__ import annotations

from tandem.inference.cache import EntryShape
from tandem.inference.capacity import blocks_for
from tandem.inference.parallel.group import Follower, Leader


def agreed_blocks(group: Leader | Follower, shape: EntryShape, *, cache_bytes: int | None, gpu_share: float) -> int:
    """As many as fit the process that has the least room. shape: what a token leaves in one process.

    cache_bytes, gpu_share: of one process, see `blocks_for`. Raises ModelError where one has no room, GroupError where
    one is gone.
    """
    # On a CPU those of a machine share its memory; a GPU belongs to one.
    sharers = group.place.local_world if group.device.type == "cpu" else 1
    own = blocks_for(shape, group.device, cache_bytes=cache_bytes, gpu_share=gpu_share, sharers=sharers)
    return group.agree(own)
