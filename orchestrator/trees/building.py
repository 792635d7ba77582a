"""From the policy of a request to what its trees are made by; what does not go together is refused with its field."""

from __future__ import annotations

from orchestrator.acceptance import AcceptRule
from orchestrator.acceptance.lossless import LosslessRule
from orchestrator.stopping import Experience, Goodput, StopRule
from orchestrator.trees.growing import WIDTH, TreeRule
from orchestrator.trees.ranks import MOST_RANKS
from tandem.rpc.errors import TandemError
from tandem.trees import MOST_CANDIDATES
from tandem.v1 import policy_pb2


def build_tree_rule(
    policy: policy_pb2.SpeculationPolicy,
    stop: StopRule,
    accept: AcceptRule,
    *,
    experience: Experience,
    key: object,
    is_shared: bool,
    has_grammar: bool,
    path: str = "speculation",
) -> TreeRule | None:
    """None where blocks are no trees. stop, accept: of the same policy. experience, key: as of the stop rule.
    is_shared: whether draft and target choose by the same rule or noise. Raises TandemError INVALID_FIELD or
    NOT_SUPPORTED."""
    if not policy.HasField("tree"):
        return None
    tree, field = policy.tree, f"{path}.tree"
    if not isinstance(accept, LosslessRule) or accept.name == "block":
        raise TandemError.not_supported(field, f"the accept rule {accept.name} verifies no trees")
    if has_grammar:
        raise TandemError.not_supported(field, "a grammar follows one text, not the paths of a tree")
    if policy.look_ahead:
        raise TandemError.invalid_field(f"{path}.look_ahead", "must be 0 or unset beside a tree")
    nodes = tree.nodes if tree.HasField("nodes") else None
    width = tree.width if tree.HasField("width") else WIDTH
    for name, value, most in (("nodes", nodes, MOST_CANDIDATES), ("width", width, MOST_RANKS)):
        if value is not None and not 1 <= value <= most:
            raise TandemError.invalid_field(f"{field}.{name}", f"must lie in [1, {most}], not {value}")
    if nodes is None and not isinstance(stop, Goodput):
        raise TandemError.invalid_field(f"{field}.nodes", f"is needed by the stop rule {stop.name}")
    ranks = experience.rank_acceptance(key, is_shared=is_shared)
    return TreeRule(ranks, experience.costs, nodes=nodes, width=width)
