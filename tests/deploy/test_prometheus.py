"""Prometheus takes the configuration, every alert fires on what it should, and asks for what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
import yaml

from tandem.rpc.errors import CODES
from tests.deploy.monitoring import (
    PROMETHEUS,
    ROOT,
    RULE_TESTS,
    RULES,
    alerts,
    filled,
    grouped_by,
    panels,
    queries,
    recorded,
    rules,
    selectors,
    series,
)

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")

#: Errors of the caller by their status. A key's limit is the caller's too, whatever its status says.
CALLERS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", "prometheus.yml")
    assert f"{len(RULES)} rule files found" in said and "SUCCESS" in said
    assert "FAILED" not in said


@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_on_what_they_should_and_are_silent_otherwise(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_tried_both_ways() -> None:
    fired, silent = set(), set()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test.get("alert_rule_test", []):
                (fired if check["exp_alerts"] else silent).add(check["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert fired == names and silent == names


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    text = (ROOT / "deploy" / "README.md").read_text()
    runbook = text[text.index("## Runbook") :]
    sections = dict(re.findall(r"^### (Tandem\w+)\n\n(.+?)\n\n", runbook, re.MULTILINE | re.DOTALL))
    for alert in alerts():
        name, annotations = alert["alert"], alert["annotations"]
        severity = alert["labels"]["severity"]
        assert severity in ("critical", "warning") and annotations["summary"].strip()
        assert annotations["runbook"] == f"deploy/README.md#{name.lower()}"
        assert re.search(rf"\*{severity}\.?\*", sections[name]), name
        assert "for" in alert, name
    assert set(sections) == {alert["alert"] for alert in alerts()}  # and no section of what is gone


def test_the_runbook_names_panels_that_there_are() -> None:
    text = (ROOT / "deploy" / "README.md").read_text()
    looks = re.findall(r"^Look: (.*?)\n\n", text[text.index("## Runbook") :], re.MULTILINE | re.DOTALL)
    assert len(looks) == len({alert["alert"] for alert in alerts()})
    titles = {panel["title"] for panel in panels()}
    for look in looks:
        for title in re.findall(r'"([^"]+)"', " ".join(look.split())):
            assert title in titles, title


def test_every_series_and_label_that_is_asked_for_is_there() -> None:
    known = series() | recorded()
    for where, expr in queries():
        asked = selectors(expr)
        assert asked, where
        for name, labels in asked:
            assert name in known, f"{where}: {name}"
            assert labels <= known[name], f"{where}: {name} has no {sorted(labels - known[name])}"
        of_all = set[str]().union(*(known[name] for name, _ in asked))
        assert grouped_by(expr) <= of_all, f"{where}: {sorted(grouped_by(expr) - of_all)}"


def test_bounds_of_the_objectives_are_bounds_of_buckets() -> None:
    from tandem.telemetry.catalogue import METRICS

    bounds = {f"{metric.name}_bucket": {str(float(bound)) for bound in metric.buckets} for metric in METRICS}
    checked = 0
    for rule in rules():
        for name, bound in re.findall(r'(tandem_\w+_bucket)\{le="([^"]+)"\}', rule["expr"]):
            assert bound in bounds[name], f"{rule['record']}: {bound}"
            checked += 1
    assert checked == 8


def test_only_what_callers_did_wrong_is_no_error() -> None:
    (pattern,) = {
        found
        for rule in rules()
        if rule.get("record", "").startswith("tandem:errors:")
        for found in re.findall(r'outcome!~"([^"]+)"', rule["expr"])
    }
    left_out = set(pattern.split("|"))
    expected = {reason.lower() for reason, code in CODES.items() if code in CALLERS or reason == "RATE_LIMIT_EXCEEDED"}
    assert left_out == expected | {"ok", "cancelled"}


def test_a_query_is_filled_in_as_grafana_would() -> None:
    assert filled('a{instance=~"$instance"}[$__rate_interval]', window="5m") == 'a{instance=~".*"}[5m]'
    with pytest.raises(KeyError):
        filled("a[$interval]")


def test_compose_is_scraped_by_the_names_of_its_services() -> None:
    configured = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["dns_sd_configs"] for job in configured}
    assert found.keys() == {"orchestrator", "draft", "target"}
    for name, (discovery,) in found.items():
        assert (discovery["names"], discovery["type"], discovery["port"]) == ([name], "A", 7090)
