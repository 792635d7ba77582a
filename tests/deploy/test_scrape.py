"""A real Prometheus scrapes real services: every panel has data, every rule is evaluated."""

from __future__ import annotations

import math
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import models as models  # a fixture
from tests.deploy.monitoring import alerts, filled, panels, rules
from tests.deploy.scraped import BINARY, Prometheus, Services, prometheus, services
from tests.deploy.test_prometheus import PROMTOOL, needs_promtool

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs prometheus (Debian: prometheus)")

#: What has to go wrong first and does not here: no keys are asked for.
NOT_HERE = {"Callers refused by key"}
SECONDS = 90.0  # only against hanging


@pytest.fixture(scope="module")
def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, Prometheus]]:
    with services(models) as trio, prometheus(tmp_path_factory.mktemp("prometheus"), trio.metrics) as server:
        yield trio, server


def without_data(server: Prometheus) -> set[str]:
    """Panels and queries for which there is no number."""
    found = set()
    for panel in panels():
        for target in panel["targets"]:
            results = server.query(filled(target["expr"]))
            if not any(math.isfinite(float(result["value"][1])) for result in results):
                found.add(f"{panel['title']}: {target['refId']}")
    return found


def test_every_panel_has_data(running: tuple[Services, Prometheus]) -> None:
    trio, server = running
    deadline = time.monotonic() + SECONDS
    while True:
        trio.calls()
        time.sleep(1.2)  # a scrape or two
        missing = {name for name in without_data(server) if name.partition(":")[0] not in NOT_HERE}
        if not missing or time.monotonic() > deadline:
            break
    assert missing == set()


def test_every_rule_is_evaluated(running: tuple[Services, Prometheus]) -> None:
    _, server = running
    deadline = time.monotonic() + SECONDS
    found = server.rules()
    while any(rule["health"] == "unknown" for rule in found) and time.monotonic() < deadline:
        time.sleep(0.5)
        found = server.rules()
    assert len(found) == len(rules())
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    firing = {rule["name"] for rule in found if rule["type"] == "alerting" and rule["state"] == "firing"}
    assert firing == set()  # nothing has lasted for minutes


def test_alerts_of_what_is_there_would_not_fire(running: tuple[Services, Prometheus]) -> None:
    """Whatever their `for` says: all services are there, with room."""
    _, server = running
    for name in ("TandemNoTargetReady", "TandemInstanceDown", "TandemMetricsAbsent", "TandemCacheNearlyFull"):
        (alert,) = (alert for alert in alerts() if alert["alert"] == name)
        assert server.query(alert["expr"]) == [], name


@needs_promtool
def test_promtool_finds_nothing_to_say_of_the_metrics(running: tuple[Services, Prometheus]) -> None:
    assert PROMTOOL is not None
    trio, _ = running
    for address in trio.metrics.values():
        exposed = urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read()
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=exposed, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), (address, done.stdout, done.stderr)
