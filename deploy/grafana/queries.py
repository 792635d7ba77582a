"""PromQL of the dashboard: what its variables narrow, and the forms that recur."""

from __future__ import annotations

from collections.abc import Sequence

#: Labels that the dashboard's variables narrow: of everything, and of what is told by policy.
EVERYTHING = ('namespace=~"$namespace"', 'instance=~"$instance"')
BY_STOP = ('stop_rule=~"$stop_rule"',)
BY_ACCEPT = ('accept_rule=~"$accept_rule"',)
BY_POLICY = (*BY_STOP, *BY_ACCEPT)
#: Completions that were to have a draft.
SPECULATING = ('stop_rule!="off"',)

POLICY = ("stop_rule", "accept_rule")

#: Window of a graph: Grafana's own, long enough for a rate at any zoom. And all that the graphs show.
GRAPH, RANGE = "$__rate_interval", "$__range"


def select(metric: str, *matchers: str) -> str:
    return f"{metric}{{{','.join((*matchers, *EVERYTHING))}}}"


def rate(metric: str, *matchers: str, by: Sequence[str] = (), window: str = GRAPH) -> str:
    """A counter's rate, summed."""
    return f"{_sum(by)}(rate({select(metric, *matchers)}[{window}]))"


def increase(metric: str, *matchers: str, by: Sequence[str] = (), window: str = GRAPH) -> str:
    return f"{_sum(by)}(increase({select(metric, *matchers)}[{window}]))"


def mean(histogram: str, *matchers: str, by: Sequence[str] = (), window: str = GRAPH) -> str:
    total = rate(f"{histogram}_sum", *matchers, by=by, window=window)
    return f"{total} / {rate(f'{histogram}_count', *matchers, by=by, window=window)}"


def quantile(share: float, histogram: str, *matchers: str, by: Sequence[str] = (), window: str = GRAPH) -> str:
    buckets = rate(f"{histogram}_bucket", *matchers, by=("le", *by), window=window)
    return f"histogram_quantile({share:g}, {buckets})"


def buckets(histogram: str, *matchers: str) -> str:
    """How many fell into each bucket, for a heatmap."""
    return increase(f"{histogram}_bucket", *matchers, by=("le",))


def gauge(metric: str, *matchers: str, by: Sequence[str] = ()) -> str:
    return f"{_sum(by)}({select(metric, *matchers)})"


def of_processes(expr: str) -> str:
    """A figure of each process, for Tandem's processes only: Prometheus may know others."""
    services = select("tandem_build_info")
    return f"sum by (service, instance) ({expr} * on (job, instance) group_left (service) {services})"


def _sum(by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)}) " if by else "sum"
