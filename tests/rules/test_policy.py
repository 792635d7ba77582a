"""Policies: names, ranges, defaults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.policy import accept_name, build_accept_rule, build_stop_rule
from tandem.policies import ACCEPT_RULES, STOP_RULES, policy_from_names
from tandem.rpc.errors import TandemError
from tandem.v1.policy_pb2 import AcceptPolicy, StopPolicy
from tests.rules.positions import candidate


def accept(name: str, *, greedy: bool = True, **options):
    return build_accept_rule(policy_from_names(accept=name, **options).accept, greedy=greedy)


def stop(name: str, **options):
    return build_stop_rule(policy_from_names(stop=name, **options).stop)


def test_the_rules_have_their_names() -> None:
    assert STOP_RULES == (
        "fixed", "adasd", "adaedl", "confidence", "entropy", "goodput",
        "draft-verify", "joint-confidence", "bandit", "tiers",
    )  # fmt: skip
    assert ACCEPT_RULES == (
        "exact", "ratio", "block", "coupled", "jsd", "adasd", "adasd-kde", "fly", "consultant", "typical", "tolerance",
    )  # fmt: skip
    for name in STOP_RULES:
        assert stop(name).name == name
    for name in ACCEPT_RULES:
        assert accept(name, threshold=0.2 if name == "jsd" else None).name == name


def test_an_accept_rule_is_known_by_its_name_before_it_is_built() -> None:
    for name in ACCEPT_RULES:
        asked = policy_from_names(accept=name, threshold=0.2 if name == "jsd" else None).accept
        assert accept_name(asked) == name
    assert accept_name(AcceptPolicy()) == "adasd"
    assert accept_name(policy_from_names(accept="named:adasd-kde").accept) == "adasd-kde"


def test_unset_rules_are_adasd_with_the_rules_own_defaults() -> None:
    assert build_stop_rule(StopPolicy()).name == "adasd"
    assert build_accept_rule(AcceptPolicy(), greedy=True).name == "adasd"
    assert [stop(name).limits().max_tokens for name in STOP_RULES] == [5, 5, 20, 20, 40, 5, 12, 20, 20, 3]
    assert stop("adaedl").thresholds()["lambda"] == 0.5
    assert stop("confidence").thresholds()["probability"] == 0.4


def test_options_reach_the_rules() -> None:
    assert [stop(name, max_tokens=9).limits().max_tokens for name in STOP_RULES] == [9, 5, 9, 9, 9, 5, 9, 9, 9, 3]
    assert stop("adasd", cold_max_tokens=3).limits().max_tokens == 3
    assert stop("adaedl", initial_lambda=0.0, gamma=0.5).limits().max_entropy_before == 2.0
    assert stop("confidence", initial_threshold=0.0).limits().min_probability == 0.0
    assert stop("entropy", max_entropy=1.5).limits().max_entropy_after == 1.5
    assert stop("goodput", max_tokens=3).limits().max_tokens == 3
    assert stop("draft-verify", initial_min_probability=0.25).limits().min_probability == 0.25
    assert stop("joint-confidence", max_failure=0.75).limits().min_joint_probability == 0.25
    assert stop("tiers", max_tokens=2).limits().max_tokens == 2
    assert accept("jsd", threshold=0.2).thresholds() == {"distance": 0.2}
    strict = accept("adasd", strict=True, min_samples=1, lossy_budget=0.5)
    for each in (candidate(accepted=True, d=0.1), candidate(d=0.5)):
        strict.record([each], strict.judge([each]))
    assert strict.thresholds() == {"distance": pytest.approx(0.3)}
    assert strict.judge([candidate(accepted=True, d=0.4)]).kept == 0
    assert strict.judge([candidate(d=0.2)]).kept == 0  # 1 would pass the budget
    assert not accept("adasd-kde", lossy_budget=0).lossy


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rule", "options", "field"),
    [
        ("fixed", {"max_tokens": 0}, "max_tokens"),
        ("fixed", {"max_tokens": 65}, "max_tokens"),
        ("adasd", {"cold_max_tokens": 0}, "adasd.cold_max_tokens"),
        ("adaedl", {"initial_lambda": 1.1}, "adaedl.initial_lambda"),
        ("adaedl", {"gamma": 0.0}, "adaedl.gamma"),
        ("adaedl", {"gamma": INFINITY}, "adaedl.gamma"),
        ("confidence", {"initial_threshold": -0.1}, "confidence.initial_threshold"),
        ("entropy", {"max_entropy": -0.1}, "entropy.max_entropy"),
        ("draft-verify", {"initial_min_probability": 1.1}, "draft_verify.initial_min_probability"),
        ("joint-confidence", {"max_failure": NAN}, "joint_confidence.max_failure"),
    ],
)
def test_a_stop_rule_out_of_range_is_refused_by_its_field(rule: str, options: dict, field: str) -> None:
    with pytest.raises(TandemError) as caught:
        stop(rule, **options)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", f"speculation.stop.{field}")


@pytest.mark.parametrize(
    ("rule", "options", "field"),
    [
        ("jsd", {"threshold": NAN}, "jsd.threshold"),
        ("jsd", {"threshold": 1.5}, "jsd.threshold"),
        ("jsd", {"threshold": 0.5, "lossy_budget": -1}, "jsd.lossy_budget"),
        ("adasd", {"lossy_budget": -0.1}, "adasd.lossy_budget"),
        ("adasd", {"lossy_budget": NAN}, "adasd.lossy_budget"),
        ("adasd", {"min_samples": 0}, "adasd.min_samples"),
        ("adasd-kde", {"min_samples": -1}, "adasd_kde.min_samples"),
        ("fly", {"window": 0}, "fly.window"),
        ("fly", {"min_entropy": -1}, "fly.min_entropy"),
        ("consultant", {"weight": 0}, "consultant.weight"),
        ("consultant", {"weight": 1.1}, "consultant.weight"),
        ("consultant", {"max_surprisal": -1}, "consultant.max_surprisal"),
        ("typical", {"epsilon": 1.1}, "typical.epsilon"),
        ("typical", {"delta": INFINITY}, "typical.delta"),
        ("tolerance", {"tolerance": 2}, "tolerance.tolerance"),
        ("tolerance", {"lossy_budget": -1}, "tolerance.lossy_budget"),
    ],
)
def test_an_accept_rule_out_of_range_is_refused_by_its_field(rule: str, options: dict, field: str) -> None:
    with pytest.raises(TandemError) as caught:
        accept(rule, **options)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", f"speculation.accept.{field}")


def test_a_fixed_threshold_is_needed() -> None:
    policy = AcceptPolicy()
    policy.jsd.SetInParent()
    with pytest.raises(TandemError) as caught:
        build_accept_rule(policy, greedy=True, path="completion.speculation.accept")
    assert caught.value.field == "completion.speculation.accept.jsd.threshold"
    with pytest.raises(ValueError, match="threshold"):
        policy_from_names(accept="jsd")


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="'greedy'; there are exact, ratio, block, .*adasd-kde"):
        policy_from_names(accept="greedy")
    with pytest.raises(ValueError, match="'never'; there are fixed, adasd, adaedl, confidence"):
        policy_from_names(stop="never")
    with pytest.raises(ValueError, match="unknown accept rule 'adasd_kde'"):
        policy_from_names(accept="adasd_kde")


def test_an_option_of_another_rule_is_refused_not_ignored() -> None:
    with pytest.raises(ValueError, match="gamma"):
        policy_from_names(stop="fixed", gamma=0.2)
    with pytest.raises(ValueError, match="max_tokens cannot be"):
        policy_from_names(max_tokens="many")


def test_the_rules_need_the_standard_library_only() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'grpc'}"
    rules = "orchestrator.stopping, orchestrator.acceptance"
    code = f"import sys, {rules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
