"""From the policy of a request to its two rules; what is out of range is refused with its field."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.message import Message

from orchestrator import acceptance, stopping
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, policy_pb2

_MOST_CANDIDATES = 64
_MOST_BRANCHES = 64


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
    options = _Options(policy, path)
    options.number("max_tokens", least=1, most=_MOST_CANDIDATES)
    rule = policy.WhichOneof("rule") or "adasd"
    own = _Options(getattr(policy, rule), f"{path}.{rule}", options.given)
    match rule:
        case "fixed":
            return stopping.FixedLength(*options.given.values())
        case "adasd":
            own.number("cold_max_tokens", least=1, most=_MOST_CANDIDATES)
            return stopping.AdaSd(**own.given)
        case "adaedl":
            own.number("initial_lambda", least=0, most=1)
            own.number("gamma", above=0)
            return stopping.AdaEdl(**own.given)
        case "confidence":
            own.number("initial_threshold", least=0, most=1)
            return stopping.Confidence(**own.given)
        case "entropy":
            own.number("max_entropy", least=0)
            return stopping.EntropyCeiling(**own.given)
        case "goodput":
            return stopping.Goodput(**own.given, experience=experience, key=key)
    raise TandemError.not_supported(f"{path}.{rule}", "this service has no such stop rule")


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
    if request.speculation.stack not in policy_pb2.Stack.values():
        raise TandemError.invalid_field(f"{path}.stack", f"has no value {request.speculation.stack}")
    if request.speculation.stack not in (policy_pb2.STACK_MIDDLE, policy_pb2.STACK_BOTH):
        return
    if not has_middle:
        raise TandemError.not_supported(f"{path}.stack", "this service has no middle model")
    if request.HasField("grammar"):
        raise TandemError.not_supported(f"{path}.stack", "a middle model does not follow a grammar")


def build_accept_rule(
    policy: policy_pb2.AcceptPolicy, *, greedy: bool, path: str = "speculation.accept"
) -> acceptance.AcceptRule:
    """The accept rule, in its first state. greedy: temperature 0. Raises TandemError INVALID_FIELD."""
    rule = policy.WhichOneof("rule") or "adasd"
    own = _Options(getattr(policy, rule), f"{path}.{rule}", {"greedy": greedy})
    match rule:
        case "exact":
            return acceptance.Exact(greedy=greedy)
        case "ratio":
            return acceptance.RatioTest(greedy=greedy)
        case "block":
            return acceptance.BlockVerification(greedy=greedy)
        case "coupled":
            return acceptance.Coupled(greedy=greedy)
        case "jsd":
            own.number("threshold", least=0, most=1, needed=True)
            own.number("lossy_budget", least=0)
            return acceptance.FixedDistance(**own.given)
        case "adasd":
            own.number("lossy_budget", least=0)
            own.number("min_samples", least=1)
            return acceptance.AdaSd(strict=policy.adasd.strict, **own.given)
        case "adasd_kde":
            own.number("lossy_budget", least=0)
            own.number("min_samples", least=1)
            return acceptance.AdaSdKde(**own.given)
    raise TandemError.not_supported(f"{path}.{rule}", "this service has no such accept rule")


class _Options:
    """Collects the options of `message` that are set, as keyword arguments in `given`."""

    def __init__(self, message: Message, path: str, given: dict[str, Any] | None = None) -> None:
        self._message = message
        self._path = path
        self.given: dict[str, Any] = dict(given or {})

    def number(
        self,
        name: str,
        *,
        least: float | None = None,
        above: float | None = None,
        most: float | None = None,
        needed: bool = False,
    ) -> None:
        """Takes the finite number `name` in [least, most] or (above, infinity)."""
        if not self._message.HasField(name):
            if needed:
                raise TandemError.invalid_field(f"{self._path}.{name}", "is needed")
            return
        value = getattr(self._message, name)
        fits = (
            math.isfinite(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
        )
        if not fits:
            bounds = f"above {above}" if above is not None else f"at least {least}"
            wanted = bounds if most is None else f"in [{least}, {most}]"
            raise TandemError.invalid_field(f"{self._path}.{name}", f"must be {wanted}, not {value}")
        self.given[name] = value
