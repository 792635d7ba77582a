"""Writes rules.yaml, a PrometheusRule, from the rule files of deploy/prometheus. A test keeps it fresh.

python deploy/kubernetes/components/monitoring/generate.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
RULES = _HERE.parents[2] / "prometheus" / "rules"
MADE = _HERE / "rules.yaml"

_NOTE = "# Made by generate.py from deploy/prometheus/rules; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def prometheus_rule() -> str:
    """The text of rules.yaml. Files come in the order of their names, groups in that of their file."""
    files = sorted(RULES.glob("*.yml"))
    groups: list[Any] = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    labels = {"app.kubernetes.io/name": "tandem", "app.kubernetes.io/part-of": "tandem"}
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tandem", "labels": labels},
        "spec": {"groups": groups},
    }
    return _NOTE + yaml.dump(made, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    MADE.write_text(prometheus_rule())
