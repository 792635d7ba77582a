"""The policies that benches compare, by the names that their tables use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tandem.policies import policy_from_names
from tandem.v1 import policy_pb2

ALONE = "target alone"
DRAFT_ALONE = "draft alone"
#: The paper's baseline (arXiv 2512.11280): five candidates, the ratio test.
VANILLA = "vanilla, 5"
GOODPUT = "goodput"
ADASD = "AdaSD v1"

#: The rows of AdaSD's table (arXiv 2512.11280v1 and v2), then AdaEDL (arXiv 2410.18351), SVIP's ceiling
#: (arXiv 2411.18462), a fixed distance (arXiv 2502.20704, with the paper's example of AdaSD as threshold), and our own.
POLICIES: Mapping[str, policy_pb2.SpeculationPolicy] = {
    ALONE: policy_pb2.SpeculationPolicy(off=True),
    DRAFT_ALONE: policy_pb2.SpeculationPolicy(off=True),
    VANILLA: policy_from_names("fixed", "ratio", max_tokens=5),
    "assisted generation's stop": policy_from_names("confidence", "ratio"),
    "stop rule only": policy_from_names("adasd", "ratio"),
    "accept rule only": policy_from_names("fixed", "adasd", max_tokens=5),
    ADASD: policy_from_names("adasd", "adasd"),
    "AdaSD v2": policy_from_names("adasd", "adasd-kde"),
    "AdaEDL": policy_from_names("adaedl", "ratio"),
    "entropy ceiling (SVIP)": policy_from_names("entropy", "ratio"),
    "distance under 0.32": policy_from_names("fixed", "jsd", max_tokens=5, threshold=0.32),
    GOODPUT: policy_from_names("goodput", "exact"),
}


def chosen(names: Sequence[str] | None) -> dict[str, policy_pb2.SpeculationPolicy]:
    """Those that were named, the target alone always first; all if none. Raises ValueError for an unknown one."""
    if unknown := [name for name in names or () if name not in POLICIES]:
        raise ValueError(f"there is no policy {unknown[0]!r}; there are {', '.join(map(repr, POLICIES))}")
    wanted = {ALONE, *(names or POLICIES)}
    return {name: policy for name, policy in POLICIES.items() if name in wanted}
