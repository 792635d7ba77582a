"""Policies by name, for callers: the names of the rules are those of the fields in `policy.proto`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import Message

from tandem.v1 import policy_pb2


def _rule_fields(message: type[Message]) -> dict[str, str]:
    """Field of each rule by its name."""
    fields = message.DESCRIPTOR.oneofs_by_name["rule"].fields
    return {field.name.replace("_", "-"): field.name for field in fields}


_STOP_FIELDS = _rule_fields(policy_pb2.StopPolicy)
_ACCEPT_FIELDS = _rule_fields(policy_pb2.AcceptPolicy)

_TREE_FIELDS = {"tree_nodes": "nodes", "tree_width": "width"}

STOP_RULES: tuple[str, ...] = tuple(_STOP_FIELDS)
ACCEPT_RULES: tuple[str, ...] = tuple(_ACCEPT_FIELDS)


def policy_from_names(
    stop: str = "adasd", accept: str = "adasd", **options: float | None
) -> policy_pb2.SpeculationPolicy:
    """The policy of a stop rule and an accept rule.

    options: fields of the two rules (as `threshold`, `lossy_budget`, `strict`, `gamma`), `max_tokens`, most candidates
    of a block, and `tree_nodes` and `tree_width`, either of which makes blocks trees; None leaves one unset. Their
    ranges are checked by the service.

    Raises ValueError for an unknown name, naming those that there are, for an option that neither rule has
    and for a value that its field cannot hold, and where `jsd` lacks its threshold.
    """
    policy = policy_pb2.SpeculationPolicy()
    stop_rule = _select(policy.stop, "stop", stop, _STOP_FIELDS)
    accept_rule = _select(policy.accept, "accept", accept, _ACCEPT_FIELDS)
    for name, value in options.items():
        if value is None:
            continue
        if name == "max_tokens":
            holder: Message = policy.stop
        elif name in _TREE_FIELDS:
            holder, name = policy.tree, _TREE_FIELDS[name]
        elif name in stop_rule.DESCRIPTOR.fields_by_name:
            holder = stop_rule
        elif name in accept_rule.DESCRIPTOR.fields_by_name:
            holder = accept_rule
        else:
            rules = f"the stop rule {stop!r} nor the accept rule {accept!r}"
            raise ValueError(f"neither {rules} has an option {name!r}")
        try:
            setattr(holder, name, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} cannot be {value!r}: {error}") from error
    if accept == "jsd" and not policy.accept.jsd.HasField("threshold"):
        raise ValueError("the accept rule 'jsd' needs a threshold")
    return policy


def _select(policy: Message, kind: str, name: str, fields: dict[str, str]) -> Message:
    if name not in fields:
        raise ValueError(f"unknown {kind} rule {name!r}; there are {', '.join(fields)}")
    rule = getattr(policy, fields[name])
    rule.SetInParent()
    return rule


#: Policies that have a name of their own, besides those of their rules.
POLICIES: Mapping[str, policy_pb2.SpeculationPolicy] = MappingProxyType(
    {
        # The target alone.
        "off": policy_pb2.SpeculationPolicy(off=True),
        # As many tokens a second as can be had without changing the law of the text.
        "lossless": policy_from_names("goodput", "exact"),
        # The same, and a seed has the text that it has with the target alone.
        "reproducible": policy_from_names("goodput", "coupled"),
        # Lossy: AdaSD, versions 1 and 2 (arXiv 2512.11280).
        "adasd": policy_from_names("adasd", "adasd"),
        "adasd-kde": policy_from_names("adasd", "adasd-kde"),
    }
)
