"""Policies by name, for callers: the names of the rules are those of the fields in `policy.proto`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import Message

from tandem.v1 import policy_pb2

#: Before the name of a rule that the contract has no message for, but the service may have.
NAMED = "named:"


def _rule_fields(message: type[Message]) -> dict[str, str]:
    """Field of each rule that has a message of its own, by its name."""
    fields = message.DESCRIPTOR.oneofs_by_name["rule"].fields
    return {field.name.replace("_", "-"): field.name for field in fields if field.name != "named"}


_STOP_FIELDS = _rule_fields(policy_pb2.StopPolicy)
_ACCEPT_FIELDS = _rule_fields(policy_pb2.AcceptPolicy)

_TREE_FIELDS = {"tree_nodes": "nodes", "tree_width": "width"}

STOP_RULES: tuple[str, ...] = tuple(_STOP_FIELDS)
ACCEPT_RULES: tuple[str, ...] = tuple(_ACCEPT_FIELDS)


def policy_from_names(
    stop: str = "adasd", accept: str = "adasd", **options: float | None
) -> policy_pb2.SpeculationPolicy:
    """The policy of a stop rule and an accept rule; `named:x` is the rule x of the service, which this package need
    not know.

    options: fields of the two rules (as `threshold`, `lossy_budget`, `strict`, `gamma`), `max_tokens`, most candidates
    of a block, and `tree_nodes` and `tree_width`, either of which makes blocks trees; None leaves one unset. Their
    ranges are checked by the service. What no other rule has is an option of the one that is `named`.

    Raises ValueError for an unknown name, naming those that there are, for an option that neither rule has
    and for a value that its field cannot hold, where `jsd` lacks its threshold, and for an option of which it cannot
    be said whose it is, as both rules are `named`.
    """
    policy = policy_pb2.SpeculationPolicy()
    rules = _select(policy.stop, "stop", stop, _STOP_FIELDS), _select(policy.accept, "accept", accept, _ACCEPT_FIELDS)
    named = [rule for rule in rules if isinstance(rule, policy_pb2.NamedRule)]
    typed = [rule for rule in rules if not isinstance(rule, policy_pb2.NamedRule)]
    for name, value in options.items():
        if value is None:
            continue
        if name == "max_tokens":
            holder: Message | None = policy.stop
        elif name in _TREE_FIELDS:
            holder, name = policy.tree, _TREE_FIELDS[name]
        else:
            holder = _holder(typed, name)
        if holder is None and not named:
            raise ValueError(f"neither the stop rule {stop!r} nor the accept rule {accept!r} has an option {name!r}")
        if holder is None and len(named) > 1:
            raise ValueError(f"{name} may be an option of {stop!r} and of {accept!r}: give the policy as a message")
        try:
            if holder is None:
                named[0].options[name] = value
            else:
                setattr(holder, name, value)
        except (TypeError, ValueError) as error:
            # A number, of which a fraction is too much: protobuf says so in words of its own.
            why = "it is a whole number" if isinstance(value, float) and isinstance(error, TypeError) else error
            raise ValueError(f"{name} cannot be {value!r}: {why}") from error
    if accept == "jsd" and not policy.accept.jsd.HasField("threshold"):
        raise ValueError("the accept rule 'jsd' needs a threshold")
    return policy


def _select(
    policy: policy_pb2.StopPolicy | policy_pb2.AcceptPolicy, kind: str, name: str, fields: dict[str, str]
) -> Message:
    if name.startswith(NAMED):
        policy.named.name = name.removeprefix(NAMED)
        return policy.named
    if name not in fields:
        raise ValueError(f"unknown {kind} rule {name!r}; there are {', '.join(fields)}")
    rule: Message = getattr(policy, fields[name])
    rule.SetInParent()
    return rule


def _holder(rules: list[Message], option: str) -> Message | None:
    return next((rule for rule in rules if option in rule.DESCRIPTOR.fields_by_name), None)


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
