"""Rules by name: a rule is a file and a line, and says itself what it may be told."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor as Field

from orchestrator import acceptance, stopping
from orchestrator.acceptance import RatioTest
from orchestrator.options import Option
from orchestrator.policy import build_accept_rule, build_stop_rule
from orchestrator.resuming import spent
from orchestrator.stopping import FixedLength, Limits, RoundOutcome
from tandem.policies import ACCEPT_RULES, STOP_RULES, policy_from_names
from tandem.rpc.errors import TandemError
from tandem.v1.policy_pb2 import AcceptPolicy, NamedRule, StopPolicy

NEEDED = {"jsd": {"threshold": 0.25}}


def named_stop(name: str, max_tokens: int | None = None, **options: float) -> stopping.StopRule:
    return build_stop_rule(StopPolicy(named=NamedRule(name=name, options=options), max_tokens=max_tokens))


def named_accept(name: str, **options: float) -> acceptance.AcceptRule:
    return build_accept_rule(AcceptPolicy(named=NamedRule(name=name, options=options)), greedy=False)


@pytest.mark.parametrize(
    ("message", "rules", "names"),
    [(StopPolicy, stopping.RULES, STOP_RULES), (AcceptPolicy, acceptance.RULES, ACCEPT_RULES)],
)
def test_every_message_of_the_contract_has_a_rule_with_its_fields_as_options(message: Any, rules, names) -> None:
    assert set(names) <= rules.keys()
    for field in message.DESCRIPTOR.oneofs_by_name["rule"].fields:
        if field.name == "named":
            continue
        types = {Field.TYPE_DOUBLE: float, Field.TYPE_INT32: int, Field.TYPE_BOOL: bool}
        wanted = {each.name: types[each.type] for each in field.message_type.fields}
        rule = rules[field.name.replace("_", "-")]
        assert {option.name: option.kind for option in rule.options} == wanted


@pytest.mark.parametrize("name", stopping.RULES)
def test_a_stop_rule_by_its_name_is_the_one_by_its_message(name: str) -> None:
    for cap in (None, 3, 64):
        typed, named = build_stop_rule(policy_from_names(name, max_tokens=cap).stop), named_stop(name, cap)
        assert (typed.name, named.name) == (name, name)
        assert typed.limits() == named.limits() and type(typed) is type(named)


@pytest.mark.parametrize("name", acceptance.RULES)
def test_an_accept_rule_by_its_name_is_the_one_by_its_message(name: str) -> None:
    options = NEEDED.get(name, {})
    typed = build_accept_rule(policy_from_names(accept=name, **options).accept, greedy=False)
    named = named_accept(name, **options)
    assert (typed.name, typed.lossy, vars(typed).keys()) == (name, named.lossy, vars(named).keys())
    assert type(typed) is type(named) and typed.thresholds() == named.thresholds()


def test_options_of_a_named_rule_reach_it_and_defaults_are_its_own() -> None:
    assert named_stop("adaedl", gamma=0.5, initial_lambda=0.0).limits().max_entropy_before == 2.0
    assert named_stop("adasd", cold_max_tokens=3.0).limits() == Limits(max_tokens=3)
    assert named_stop("entropy").limits().max_entropy_after == 0.6
    assert named_accept("jsd", threshold=0.4).thresholds() == {"distance": 0.4}
    assert not named_accept("adasd", lossy_budget=0.0, strict=1.0).lossy


@pytest.mark.parametrize(
    ("policy", "field", "says"),
    [
        (StopPolicy(named=NamedRule(name="never")), "named.name", "there is no stop rule 'never'; there are fixed, "),
        (StopPolicy(named=NamedRule()), "named.name", "there is no stop rule ''"),
        (StopPolicy(named=NamedRule(name="exact")), "named.name", "no stop rule"),
        (AcceptPolicy(named=NamedRule(name="adasd_kde")), "named.name", "there are exact, ratio, .*adasd-kde"),
        (StopPolicy(named=NamedRule(name="fixed", options={"length": 3})), "named.options.length", "it has none"),
        (
            StopPolicy(named=NamedRule(name="adaedl", options={"g": 1, "gamma": 1})),
            "named.options.g", "adaedl has no such option; there are initial_lambda, gamma",
        ),
        (StopPolicy(named=NamedRule(name="adaedl", options={"gamma": 0})), "named.options.gamma", "above 0, not 0.0"),
        (
            StopPolicy(named=NamedRule(name="adasd", options={"cold_max_tokens": 2.5})),
            "named.options.cold_max_tokens", "a whole number, not 2.5",
        ),
        (AcceptPolicy(named=NamedRule(name="adasd", options={"strict": 2})), "named.options.strict", "0 or 1, not 2"),
        (AcceptPolicy(named=NamedRule(name="jsd")), "named.options.threshold", "is needed"),
        (
            AcceptPolicy(named=NamedRule(name="typical", options={"delta": float("inf")})),
            "named.options.delta", "at least 0, not inf",
        ),
        (
            AcceptPolicy(named=NamedRule(name="fly", options={"window": float("inf")})),
            "named.options.window", r"in \[1, 63\], not inf",
        ),
    ],
)  # fmt: skip
def test_what_a_named_rule_cannot_be_told_is_refused_by_its_field(policy: Any, field: str, says: str) -> None:
    is_stop = isinstance(policy, StopPolicy)
    with pytest.raises(TandemError, match=says) as caught:
        build_stop_rule(policy) if is_stop else build_accept_rule(policy, greedy=True)
    side = "stop" if is_stop else "accept"
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", f"speculation.{side}.{field}")


def test_nothing_is_left_of_a_named_rules_budget_where_a_completion_goes_on() -> None:
    bounded = AcceptPolicy(named=NamedRule(name="typical", options={"lossy_budget": 3.0, "delta": 0.5}))
    assert spent(bounded).named.options == {"lossy_budget": 0.0, "delta": 0.5}
    free = AcceptPolicy(named=NamedRule(name="typical"))
    assert spent(free) == free


class Toy:
    """Two options, and nothing else that a rule would have to have."""

    name = "toy"
    options = (Option("length", least=1, most=9, kind=int), Option("ceiling", least=0))

    def __init__(self, max_tokens: int = 9, length: int = 4, ceiling: float = 1.0) -> None:
        self._limits = Limits(max_tokens=min(length, max_tokens), max_entropy_after=ceiling)

    def limits(self) -> Limits:
        return self._limits

    def update(self, outcome: RoundOutcome) -> None: ...

    def thresholds(self) -> dict[str, float]:
        return {}


def test_a_new_rule_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TandemError, match="there is no stop rule 'toy'"):
        named_stop("toy")
    monkeypatch.setitem(stopping.RULES, Toy.name, Toy)
    assert named_stop("toy", length=2, ceiling=0.5).limits() == Limits(max_tokens=2, max_entropy_after=0.5)
    assert named_stop("toy", max_tokens=3).limits() == Limits(max_tokens=3, max_entropy_after=1.0)
    with pytest.raises(TandemError, match=r"in \[1, 9\], not 10"):
        named_stop("toy", length=10)


def test_names_that_callers_give_reach_rules_that_have_no_message() -> None:
    policy = policy_from_names("named:toy", "adasd", length=2, ceiling=0.5, lossy_budget=1.0, max_tokens=3)
    assert policy.stop == StopPolicy(named=NamedRule(name="toy", options={"length": 2, "ceiling": 0.5}), max_tokens=3)
    assert policy.accept.adasd.lossy_budget == 1.0
    both = policy_from_names("named:toy", "named:other")
    assert (both.stop.named.name, both.accept.named.name) == ("toy", "other")
    with pytest.raises(ValueError, match="length may be an option of 'named:toy' and of 'named:other'"):
        policy_from_names("named:toy", "named:other", length=2)
    with pytest.raises(ValueError, match="length cannot be 'two'"):
        policy_from_names("named:toy", length="two")  # type: ignore[arg-type]


def outcomes() -> list[RoundOutcome]:
    """Rounds that every rule learns something of."""
    made = []
    for accepted, cap in itertools.product((0, 1, 4), (4, 20)):
        rejected = accepted < 4
        made.append(
            RoundOutcome(
                drafted=4,
                accepted=accepted,
                cap=cap,
                entropies=(0.1, 0.4, 0.9, 1.6),
                probabilities=(0.9, 0.7, 0.5, 0.2),
                matched=(True,) * accepted + (False,) * rejected,
                acceptances=(1.0,) * accepted + (0.0,) * rejected,
            )
        )
    return made * 6


@pytest.mark.parametrize("name", stopping.RULES)
def test_what_a_stop_rule_learns_stays_in_its_request(name: str) -> None:
    taught, beside = named_stop(name), named_stop(name)
    before = beside.limits(), beside.thresholds()
    for each in outcomes():
        taught.update(each)
    assert (beside.limits(), beside.thresholds()) == before
    later = named_stop(name)
    assert (later.limits(), later.thresholds()) == before


def test_rules_do_learn() -> None:
    """Otherwise the test above would show nothing."""
    learning = set()
    for name in stopping.RULES:
        rule = named_stop(name)
        before = rule.limits(), rule.thresholds()
        for each in outcomes():
            rule.update(each)
        if (rule.limits(), rule.thresholds()) != before:
            learning.add(name)
    # Of these rounds `goodput` learns no costs, and so no length.
    assert learning == {"adasd", "adaedl", "confidence", "draft-verify", "bandit", "tiers"}


def test_names_are_those_of_the_classes() -> None:
    for rules in (stopping.RULES, acceptance.RULES):
        assert all(rule.name == name for name, rule in rules.items())
    assert stopping.RULES["fixed"] is FixedLength and acceptance.RULES["ratio"] is RatioTest
