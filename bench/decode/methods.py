"""Everything that `--all` compares: each accept rule, stop rule and drafter that there is, trees, and named policies.

The entries come from the registries of the services: what is new there is in the table without a change here. One thing
differs from vanilla in each: an accept rule judges vanilla's blocks, a stop rule makes blocks for vanilla's ratio test,
a drafter proposes what both of vanilla's rules are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.pair import Pair
from bench.policies import ALONE, POLICIES, VANILLA
from orchestrator import acceptance, stopping
from tandem.cli.errors import CliError
from tandem.drafters import DRAFTERS, MODEL, STAND
from tandem.policies import ACCEPT_RULES, NAMED, STOP_RULES, policy_from_names
from tandem.policies import POLICIES as NAMED_POLICIES
from tandem.v1 import policy_pb2

BASELINE = "baseline"
ACCEPT, STOP, DRAFTER, TREE, SERVICE, POLICY = KINDS = ("accept", "stop", "drafter", "tree", "service", "policy")

_BLOCK = 5  # vanilla's
#: Of accept rules that never act on blocks as short as vanilla's: FLy needs 5 candidates behind a mismatch.
_BLOCKS: Mapping[str, int] = {"fly": 10}
#: Options that a rule has no default for, by its name. The threshold is the example of AdaSD's paper.
_NEEDED: Mapping[str, Mapping[str, float]] = {"jsd": {"threshold": 0.32}}


@dataclass(frozen=True, slots=True)
class Setup:
    """The services that a method needs. change: from the pair that was asked for to the one that is started."""

    name: str
    change: Callable[[Pair], Pair]


@dataclass(frozen=True, slots=True)
class Method:
    """kind, name: unique together; of a rule, drafter or policy as it is registered. setup: name of its services."""

    kind: str
    name: str
    policy: policy_pb2.SpeculationPolicy
    setup: str = MODEL

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


#: Drafters that are made of the target's own weights.
_OF_THE_TARGET = frozenset({"early-exit"})


def _drafting(drafter: str) -> Setup:
    if drafter in _OF_THE_TARGET:
        return Setup(
            drafter,
            lambda pair: replace(pair, drafter=drafter, draft_model=pair.target_model, draft_weights="full"),
        )
    return Setup(drafter, lambda pair: replace(pair, drafter=drafter))


def _with_middle(pair: Pair) -> Pair:
    """Raises CliError for a pair without anything between its two models."""
    if not pair.is_rig:
        raise CliError(f"there is no model between {pair.draft_model} and {pair.target_model}")
    return replace(pair, middle_model="rig:noise-0.02")


#: Other services than the pair's own, with the stack that is asked for; vanilla's rules are measured in each. A budget
#: below vanilla's five candidates acts.
_SERVICES: Mapping[Setup, policy_pb2.Stack.ValueType] = {
    Setup("verify-budget", lambda pair: replace(pair, verify_budget="3")): policy_pb2.STACK_DRAFT,
    Setup("middle", _with_middle): policy_pb2.STACK_BOTH,
}


#: Names of drafters behind one another; each is a drafter like the others.
COMBINED = (f"{STAND}+{MODEL}",)
#: By name; the pair as it is comes first, since vanilla runs on it. Others that a method needs are a line here.
SETUPS: Mapping[str, Setup] = {
    setup.name: setup
    for setup in (
        Setup(MODEL, lambda pair: pair),
        *(_drafting(name) for name in (*DRAFTERS, *COMBINED) if name != MODEL),
        *_SERVICES,
    )
}

#: Beside rules, drafters and policies: a shape of a set size, and one that the stop rule chooses.
_TREES: Mapping[str, policy_pb2.SpeculationPolicy] = {
    "set-size": policy_from_names("fixed", "ratio", max_tokens=_BLOCK, tree_nodes=8),
    "chosen-size": policy_from_names("goodput", "exact", tree_width=4),
}


def baselines(setup: str) -> list[Method]:
    """What the others of these services are compared with: the target alone, and vanilla where its draft runs."""
    names = (ALONE, VANILLA) if setup == MODEL else (ALONE,)
    return [Method(BASELINE, name, POLICIES[name], setup) for name in names]


def methods(only: Sequence[str] | None = None) -> list[Method]:
    """All, or those of the kinds and keys that are named, as `accept` and `stop/svip`; in the order of the kinds.

    Raises ValueError for a name that is neither, with those that there are.
    """
    found = [*_accept_rules(), *_stop_rules(), *_drafters(), *_trees(), *_services(), *_policies()]
    if not only:
        return found
    known = {*KINDS, *(method.key for method in found)}
    if unknown := [name for name in only if name not in known]:
        keys = ", ".join(method.key for method in found)
        raise ValueError(f"there is no method {unknown[0]!r}; there are {', '.join(KINDS)}, or one of {keys}")
    return [method for method in found if method.kind in only or method.key in only]


def _accept_rules() -> Iterator[Method]:
    for name in acceptance.RULES:
        options: dict[str, Any] = {"max_tokens": _BLOCKS.get(name, _BLOCK), **_NEEDED.get(name, {})}
        yield Method(ACCEPT, name, policy_from_names("fixed", _called(name, ACCEPT_RULES), **options))


def _stop_rules() -> Iterator[Method]:
    for name in stopping.RULES:
        options = _NEEDED.get(name, {})
        yield Method(STOP, name, policy_from_names(_called(name, STOP_RULES), "ratio", **options))


def _drafters() -> Iterator[Method]:
    for name in (*DRAFTERS, *COMBINED):
        yield Method(DRAFTER, name, POLICIES[VANILLA], name)


def _trees() -> Iterator[Method]:
    for name, policy in _TREES.items():
        yield Method(TREE, name, policy)


def _services() -> Iterator[Method]:
    for setup, models in _SERVICES.items():
        policy = policy_pb2.SpeculationPolicy(stack=models)
        policy.MergeFrom(POLICIES[VANILLA])
        yield Method(SERVICE, setup.name, policy, setup.name)


def _policies() -> Iterator[Method]:
    for name, policy in NAMED_POLICIES.items():
        if not policy.off:
            yield Method(POLICY, name, policy)


def _called(name: str, with_message: Sequence[str]) -> str:
    """How a policy names a rule, which the contract need not know."""
    return name if name in with_message else NAMED + name
