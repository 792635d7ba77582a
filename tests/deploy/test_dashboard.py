"""The dashboard is what its source writes, and can be read: each panel says what it shows, in which unit."""

from __future__ import annotations

import itertools
import re

import pytest
import yaml

from deploy.grafana.dashboard import build
from tests.deploy.monitoring import DASHBOARD, ROOT, dashboard, panels


def test_the_committed_dashboard_is_fresh() -> None:
    assert DASHBOARD.read_text() == build(), "run python -m deploy.grafana.dashboard"


def test_every_panel_says_what_it_shows_and_what_nothing_means() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles) > 30
    for panel in panels():
        assert re.search(r"[.)]$", panel["description"].strip()), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["noValue"], panel["title"]
        assert panel["type"] == "table" or defaults["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["type"] in ("stat", "table") or target["legendFormat"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_neither_overlap_nor_leave_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell[0] < 24 and cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_colours_follow_the_theme() -> None:
    """Grafana shades the colours that it has names for; others look the same on white and on black."""
    text = DASHBOARD.read_text()
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(", text)


@pytest.mark.parametrize("name", ["namespace", "instance", "stop_rule", "accept_rule"])
def test_variables_narrow_what_is_shown(name: str) -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    found = variables[name]
    assert found["includeAll"] and found["multi"] and found["allValue"] == ".*" and name in found["query"]
    used = [panel for panel in panels() for target in panel["targets"] if f'{name}=~"${name}"' in target["expr"]]
    assert len(used) > 5


def test_provisioning_names_what_is_there() -> None:
    grafana = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus" and source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    (provider,) = yaml.safe_load((grafana / "dashboards" / "tandem.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"].endswith(f"/{DASHBOARD.parent.name}")
