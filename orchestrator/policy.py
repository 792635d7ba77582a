"""From the policy of a request to its two rules; what is out of range is refused with its field.

Rules are named, and declare their options, where they are written; `registry.py` of `stopping/` and of `acceptance/`
lists them. A rule that the contract knows has a message of its own, with a field for each option; any rule can be had
by its name, too (`NamedRule`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator import acceptance, stopping
from orchestrator.options import Option, Value
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, policy_pb2

_MAX_TOKENS = Option("max_tokens", least=1, most=64, kind=int)
_MOST_BRANCHES = 64
_DEFAULT = "adasd"


def build_stop_rule(
    policy: policy_pb2.StopPolicy,
    *,
    path: str = "speculation.stop",
    experience: stopping.Experience | None = None,
    key: object = None,
) -> stopping.StopRule:
    """The stop rule, in its first state; defaults are the rule's own. Raises TandemError INVALID_FIELD.

    experience: what completions have learnt together, for rules that use it; key: of what acceptance depends on.
    """
    given: dict[str, Any] = {}
    if policy.HasField("max_tokens"):
        given["max_tokens"] = _read(_MAX_TOKENS, policy.max_tokens, f"{path}.max_tokens")
    rule, options = _chosen(policy, stopping.RULES, path, "stop")
    if issubclass(rule, stopping.LearnsTogether):
        given |= {"experience": experience, "key": key}
    built: stopping.StopRule = rule(**given, **options)
    return built


def build_accept_rule(
    policy: policy_pb2.AcceptPolicy, *, greedy: bool, path: str = "speculation.accept"
) -> acceptance.AcceptRule:
    """The accept rule, in its first state. greedy: temperature 0. Raises TandemError INVALID_FIELD."""
    rule, options = _chosen(policy, acceptance.RULES, path, "accept")
    built: acceptance.AcceptRule = rule(greedy=greedy, **options)
    return built


def most_branches(policy: policy_pb2.SpeculationPolicy, *, path: str = "speculation") -> int | None:
    """Outcomes to look ahead for; None where the policy does not say. Raises TandemError INVALID_FIELD."""
    if not policy.HasField("look_ahead"):
        return None
    if policy.look_ahead > _MOST_BRANCHES:
        raise TandemError.invalid_field(
            f"{path}.look_ahead", f"must lie in [0, {_MOST_BRANCHES}], not {policy.look_ahead}"
        )
    return policy.look_ahead


def check_stack(request: completion_pb2.CompleteRequest, *, path: str, has_middle: bool) -> None:
    """Raises TandemError where the stack that is named cannot be had."""
    policy = request.speculation
    if policy.stack not in policy_pb2.Stack.values():
        raise TandemError.invalid_field(f"{path}.stack", f"has no value {policy.stack}")
    if policy.stack not in (policy_pb2.STACK_MIDDLE, policy_pb2.STACK_BOTH):
        return
    if not has_middle:
        raise TandemError.not_supported(f"{path}.stack", "this service has no middle model")
    if request.HasField("grammar"):
        raise TandemError.not_supported(f"{path}.stack", "a middle model does not follow a grammar")
    if policy.HasField("tree"):
        raise TandemError.not_supported(f"{path}.stack", "a middle model makes no trees")


def accept_name(policy: policy_pb2.AcceptPolicy) -> str:
    """Of the rule that is asked for, which there need not be."""
    field = policy.WhichOneof("rule") or _DEFAULT
    return policy.named.name if field == "named" else field.replace("_", "-")


def _chosen(
    policy: policy_pb2.StopPolicy | policy_pb2.AcceptPolicy, rules: Mapping[str, type[Any]], path: str, kind: str
) -> tuple[type[Any], dict[str, Value]]:
    """The rule that is asked for and its options, as its constructor takes them."""
    field = policy.WhichOneof("rule") or _DEFAULT
    if field == "named":
        name, where, values = policy.named.name, f"{path}.named.options", dict(policy.named.options)
        if name not in rules:
            raise TandemError.invalid_field(
                f"{path}.named.name", f"there is no {kind} rule {name!r}; there are {_listed(rules)}"
            )
    else:
        name, where = field.replace("_", "-"), f"{path}.{field}"
        values = {option.name: value for option, value in getattr(policy, field).ListFields()}
        if name not in rules:
            raise TandemError.not_supported(where, f"this service has no such {kind} rule")
    rule = rules[name]
    known: dict[str, Option] = {option.name: option for option in rule.options}
    for unknown in sorted(values.keys() - known.keys()):
        there_are = f"there are {_listed(known)}" if known else "it has none"
        raise TandemError.invalid_field(f"{where}.{unknown}", f"{name} has no such option; {there_are}")
    for option in known.values():
        if option.needed and option.name not in values:
            raise TandemError.invalid_field(f"{where}.{option.name}", "is needed")
    return rule, {option: _read(known[option], value, f"{where}.{option}") for option, value in values.items()}


def _read(option: Option, value: Value, path: str) -> Value:
    try:
        return option.read(value)
    except ValueError as error:
        raise TandemError.invalid_field(path, str(error)) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
