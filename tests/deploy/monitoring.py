"""What Prometheus and Grafana are given: rules, the dashboard's queries, and the metrics that they may speak of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from tandem.telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "tandem.json"

#: Set by whoever scrapes. `namespace` is there in Kubernetes only.
_SCRAPED = {"job", "instance", "namespace"}


def rules() -> list[dict[str, Any]]:
    """Recording rules and alerts of all files."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled(expr: str, *, window: str = "1m", stop_rule: str = ".*", accept_rule: str = ".*") -> str:
    """A query of the dashboard, with what Grafana puts for its variables."""
    values = {
        "__rate_interval": window, "__range": window, "namespace": ".*", "instance": ".*", "stop_rule": stop_rule,
        "accept_rule": accept_rule,
    }  # fmt: skip
    return re.sub(r"\$([a-z_]+)", lambda found: values[found[1]], expr)


def queries() -> list[tuple[str, str]]:
    """All that is asked of Prometheus, and where."""
    of_rules = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    of_panels = [(panel["title"], filled(target["expr"])) for panel in panels() for target in panel["targets"]]
    return of_rules + of_panels


def series() -> dict[str, set[str]]:
    """The labels of every series that there may be, by name."""
    found = {sample.name: set() for family in _of_processes() for sample in family.samples}
    for metric in METRICS:
        if metric.kind != "histogram":
            found[metric.name] = set(metric.labels)
            continue
        for suffix in ("_sum", "_count"):
            found[metric.name + suffix] = set(metric.labels)
        found[f"{metric.name}_bucket"] = {*metric.labels, "le"}
    found |= {"up": set(), "ALERTS": {"alertname", "alertstate"}}  # Prometheus' own
    return {name: labels | _SCRAPED for name, labels in found.items()}


def _of_processes() -> Iterator[Any]:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return iter(registry.collect())


def recorded() -> dict[str, set[str]]:
    """Likewise of every recording rule: what it sums by."""
    found: dict[str, set[str]] = {}
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = grouped_by(rule["expr"]) | {
                label for name, _ in selectors(rule["expr"]) for label in found.get(name, set())
            }
    return found


def selectors(expr: str) -> list[tuple[str, set[str]]]:
    """Name and matched labels of every series that a query asks for."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def grouped_by(expr: str) -> set[str]:
    """Labels that a query sums by or joins on."""
    lists = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expr)
    return {label.strip() for names in lists for label in names.split(",") if label.strip()}
