"""The kinds of panel that the dashboard is made of. Each says what it shows, in which unit, and what no data means.

Colours are Grafana's named ones, which it shades by the theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import barchart, common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")

#: A reading below the first number has the first colour, and so on.
Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """legend: with `{{label}}` for a label's value."""

    expr: str
    legend: str = ""


def figure(
    title: str, told: str, expr: str, *, unit: str, steps: Steps = (), nothing: str, decimals: int | None = None
) -> Any:
    """One number for all that the graphs show."""
    panel = stat.Panel().graph_mode(common_models.BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_mode(common_models.BigValueColorMode.VALUE if steps else common_models.BigValueColorMode.NONE)
    if steps:
        panel.thresholds(_thresholds(steps))
    panel.with_target(_query(Query(expr), 0).instant())
    return _dressed(panel, title, told, unit, nothing, decimals, width=4, height=5)


def graph(
    title: str,
    told: str,
    *queries: Query,
    unit: str,
    nothing: str,
    width: int = 8,
    height: int = 8,
    stack: common_models.StackingMode | None = None,
    colours: Mapping[str, str] | None = None,
    line_at: float | None = None,
    least: float | None = 0,
) -> Any:
    """Lines over time, or areas on top of each other. colours: of series, by name. line_at: a level to compare with."""
    panel = timeseries.Panel().legend(_legend(beside=width >= 12))
    panel.tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    panel.show_points(common_models.VisibilityMode.NEVER).line_width(1).fill_opacity(0)
    if stack is not None:
        panel.stacking(common.StackingConfig().mode(stack)).fill_opacity(70).line_width(0)
    if line_at is not None:
        panel.thresholds(_thresholds([(None, "transparent"), (line_at, "text")]))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED))
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(name, [models.DynamicConfigValue(id_val="color", value=fixed)])
    for index, query in enumerate(queries):
        panel.with_target(_query(query, index).range())
    if least is not None:
        panel.min(least)
    return _dressed(panel, title, told, unit, nothing, None, width, height)


def bars(title: str, told: str, query: Query, *, by: str, unit: str, nothing: str, most: float, width: int = 8) -> Any:
    """One bar for each value of the label `by`, in the order of its text, of all that the graphs show."""
    panel = barchart.Panel().x_field(by).legend(common.VizLegendOptions().show_legend(False)).min(0).max(most)
    panel.with_target(_query(query, 0).instant().format(PromQueryFormat.TABLE))
    keep = {"include": {"names": [by, "Value"]}}
    panel.with_transformation(models.DataTransformerConfig(id_val="filterFieldsByName", options=keep))
    order = {"sort": [{"field": by}]}
    panel.with_transformation(models.DataTransformerConfig(id_val="sortBy", options=order))
    return _dressed(panel, title, told, unit, nothing, None, width, height=8)


def density(title: str, told: str, expr: str, *, unit: str, nothing: str, scheme: str) -> Any:
    """Where the values of a histogram lie, over time. scheme: of colours."""
    panel = heatmap.Panel().calculate(False)
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme(scheme).exponent(0.5).steps(64)
    panel.color(colour).y_axis(heatmap.YAxisConfig().unit(unit)).show_legend().exemplars_color("text")
    panel.with_target(_query(Query(expr, "{{le}}"), 0).range().format(PromQueryFormat.HEATMAP))
    return _dressed(panel, title, told, unit, nothing, None, width=6, height=8)


def listing(
    title: str,
    told: str,
    *queries: Query,
    columns: Mapping[str, str],
    units: Mapping[str, str] | None = None,
    nothing: str,
    width: int = 24,
    height: int = 8,
) -> Any:
    """A table. Of each query one column of values, named by its legend. columns: labels to show, by their headings.
    units: by heading."""
    panel = table.Panel()
    for index, query in enumerate(queries):
        panel.with_target(_query(query, index).instant().format(PromQueryFormat.TABLE))
    headings = dict(columns)
    for index, query in enumerate(queries):
        headings["Value" if len(queries) == 1 else f"Value #{_ref(index)}"] = query.legend
    wanted = [name for name, heading in headings.items() if heading]
    merge = models.DataTransformerConfig(id_val="merge", options={})
    keep = models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": wanted}})
    renamed = {
        "indexByName": {name: index for index, name in enumerate(wanted)},
        "renameByName": {name: headings[name] for name in wanted},
    }
    named = models.DataTransformerConfig(id_val="organize", options=renamed)
    panel.transformations([merge, keep, named])
    for heading, unit in (units or {}).items():
        panel.override_by_name(heading, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return _dressed(panel, title, told, "", nothing, 2, width, height)


def _dressed(
    panel: Any, title: str, told: str, unit: str, nothing: str, decimals: int | None, width: int, height: int
) -> Any:
    panel.title(title).description(told).datasource(SOURCE).no_value(nothing).span(width).height(height)
    if unit:
        panel.unit(unit)
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def _legend(*, beside: bool) -> common.VizLegendOptions:
    """With numbers where there is room for them, beside the graph; otherwise below it, names alone."""
    legend = common.VizLegendOptions().show_legend(True)
    if beside:
        legend.display_mode(common_models.LegendDisplayMode.TABLE).calcs(["mean", "lastNotNull"])
        return legend.placement(common_models.LegendPlacement.RIGHT)
    return legend.display_mode(common_models.LegendDisplayMode.LIST).placement(common_models.LegendPlacement.BOTTOM)


def _query(query: Query, index: int) -> prometheus.Dataquery:
    found = prometheus.Dataquery().expr(query.expr).ref_id(_ref(index)).datasource(SOURCE)
    return found.legend_format(query.legend or "__auto")


def _ref(index: int) -> str:
    return chr(ord("A") + index)


def _thresholds(steps: Steps) -> ThresholdsConfig:
    found = [models.Threshold(value=value, color=colour) for value, colour in steps]
    return ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)
