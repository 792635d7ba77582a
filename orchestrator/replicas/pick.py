"""Which replica gets the next sequence: the less busy of two that chance names.

Two random choices keep the fullest of n replicas within log log n of the mean where one choice lets it grow with
log n / log log n (Azar, Broder, Karlin and Upfal, 1999), and unlike the least busy of all they do not send every
orchestrator to the same replica while reports are old. How busy a replica is:

    (sessions + waiting blocks + 1) / (1 - cache in use / cache)

Sessions are the sequences that it holds, each of which takes a place in its steps and memory for as long as it is open,
also while it waits for its draft or its caller; those begun here since the last report are added at once, so that a
burst between two reports is spread. Waiting blocks are the work that is queued now: such a session counts twice. As the
cache fills up, the next sequence is the more likely to be held up or to push out another.

What is lost is the reuse of prefixes: of a conversation's next turn, or a prompt that many share, a replica remembers
only what it has been sent itself, and chance sends it there once in n times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from orchestrator.replicas.replica import Replica

# Of a cache that is full: nothing is worse, but it is a number.
_FULLEST = 0.99


def pick(replicas: Sequence[Replica]) -> Replica:
    """One of `replicas`, of which there is at least one. Those that have just refused a sequence come last."""
    candidates = [replica for replica in replicas if not replica.is_full] or replicas
    return min(random.sample(candidates, min(2, len(candidates))), key=busy)  # of equals, the one named first


def busy(replica: Replica) -> float:
    """The formula above."""
    load = replica.load
    used = load.cache_bytes / load.cache_capacity_bytes if load.cache_capacity_bytes else 0.0
    return (replica.sessions + load.waiting_blocks + 1) / (1 - min(used, _FULLEST))
