"""Writes the dashboard: `python -m deploy.grafana.dashboard`. Grafana reads dashboards/tandem.json."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import SOURCE
from deploy.grafana.rows import acceptance, answer, callers, engines, look_ahead, rounds, services

PATH = Path(__file__).parent / "dashboards" / "tandem.json"

_ROWS = (answer, rounds, look_ahead, acceptance, callers, engines, services)


def build() -> str:
    """The dashboard as Grafana's JSON, ending in a line break."""
    board = Dashboard("Tandem: does speculation pay?").uid("tandem").tags(["tandem"]).readonly()
    board.description("Whether speculation pays, for whom, and if not why; then the services one by one.")
    board.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    board.with_variable(_variable("namespace", "Namespace", "label_values(tandem_build_info, namespace)"))
    board.with_variable(_variable("instance", "Instance", "label_values(tandem_build_info, instance)"))
    for rule in ("stop", "accept"):
        values = f"label_values(tandem_request_duration_seconds_count, {rule}_rule)"
        board.with_variable(_variable(f"{rule}_rule", f"{rule.capitalize()} rule", values))
    number = 0
    for row in _ROWS:
        number += 1
        board.with_row(Row(row.TITLE).id(number))
        for panel in row.panels():
            number += 1
            board.with_panel(panel.id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _variable(name: str, label: str, query: str) -> QueryVariable:
    """Several values, or all; all is also where the label is not set."""
    found = QueryVariable(name).label(label).query(query).datasource(SOURCE).multi(True).include_all(True)
    everything = VariableOption(selected=True, text="All", value="$__all")
    found.all_value(".*").current(everything).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return found.sort(VariableSort.ALPHABETICAL_ASC)


if __name__ == "__main__":
    PATH.write_text(build())
