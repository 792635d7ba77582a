"""Several draft and target services behind one orchestrator: found by name, watched, and chosen by load.

`group.py` first; then `replica.py`, what is known of one, `pick.py`, how one is chosen, and `fit.py`, which may be.
"""

from orchestrator.replicas.fit import FitsTarget, OneModel, identity, same_model
from orchestrator.replicas.group import Connect, Group, plain
from orchestrator.replicas.lease import Lease
from orchestrator.replicas.pair import MiddlePair, Pair
from orchestrator.replicas.replica import Replica, State
from orchestrator.replicas.resolve import Address, Lookup, system_lookup
from orchestrator.replicas.search import Search
from orchestrator.replicas.service import BROKEN, DRAFT, NOT_TAKEN, TARGET, Service, is_for_callers

__all__ = [
    "BROKEN", "DRAFT", "NOT_TAKEN", "TARGET", "Address", "Connect", "FitsTarget", "Group", "Lease", "Lookup",
    "MiddlePair", "OneModel", "Pair", "Replica", "Search", "Service", "State", "identity", "is_for_callers", "plain",
    "same_model", "system_lookup",
]  # fmt: skip
