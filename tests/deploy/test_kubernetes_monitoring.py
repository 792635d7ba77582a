"""Rules, dashboards and scaling read the metrics that the services have, from one source."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import yaml

from tests.deploy.manifests import KUBERNETES, ROOT, composed, kinds, needs_kubectl, one, selects

pytestmark = needs_kubectl

GRAFANA = ROOT / "deploy" / "grafana"


def generator() -> ModuleType:
    path = KUBERNETES / "components" / "monitoring" / "generate.py"
    spec = importlib.util.spec_from_file_location("kubernetes_monitoring_generate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metric_names() -> set[str]:
    """Every metric that the services register, as written in their sources."""
    sources = [*ROOT.glob("tandem/telemetry*/**/*.py"), *ROOT.glob("tandem/telemetry.py")]
    return {name for path in sources for name in re.findall(r'"(tandem_[a-z_]+)"', path.read_text())}


def test_the_rules_are_those_of_prometheus_and_fresh() -> None:
    made = generator()
    assert made.MADE.read_text() == made.prometheus_rule(), "run components/monitoring/generate.py"
    rule = one(composed("monitoring"), "PrometheusRule", "tandem")
    groups = [
        group
        for file in sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert rule["spec"]["groups"] == groups and groups


def test_every_dashboard_is_brought_as_it_is() -> None:
    dashboards = {path.name: path.read_text() for path in GRAFANA.glob("dashboards/*.json")}
    made = one(composed("monitoring"), "ConfigMap", "tandem-dashboards")
    assert made["data"] == dashboards and dashboards
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["namespace"] == "tandem"
    assert sum(map(len, dashboards.values())) < 1_000_000  # what a ConfigMap holds


def test_prometheus_finds_every_service_by_the_jobs_that_the_rules_know() -> None:
    objects = composed("monitoring")
    monitor = one(objects, "ServiceMonitor", "tandem")["spec"]
    jobs = set()
    for service in kinds(objects, "Service"):
        labels = service["metadata"]["labels"]
        assert selects(monitor["selector"], labels)
        assert monitor["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
        jobs.add(labels[monitor["jobLabel"]])
    configured = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert jobs == {each["job_name"] for each in configured["scrape_configs"]} & {"draft", "target", "orchestrator"}
    assert len(jobs) == 3


def test_the_operators_own_service_label_does_not_hide_ours() -> None:
    (endpoint,) = one(composed("monitoring"), "ServiceMonitor", "tandem")["spec"]["endpoints"]
    assert {"action": "labeldrop", "regex": "service"} in endpoint["relabelings"]


def test_what_scales_asks_for_metrics_that_there_are_and_for_its_own_service() -> None:
    names = metric_names()
    for service in ("draft", "target"):
        triggers = one(composed("autoscaling"), "ScaledObject", f"tandem-{service}")["spec"]["triggers"]
        queries = [trigger["metadata"]["query"] for trigger in triggers]
        asked = {name for query in queries for name in re.findall(r"tandem_[a-z_]+", query)}
        assert asked == {"tandem_waiting_blocks", "tandem_cache_bytes", "tandem_cache_capacity_bytes"}
        assert asked <= names
        assert all(set(re.findall(r'service="(\w+)"', query)) == {service} for query in queries)
        plain = one(composed("autoscaling-hpa"), "HorizontalPodAutoscaler", f"tandem-{service}")["spec"]
        of_pods = {metric["pods"]["metric"]["name"] for metric in plain["metrics"]}
        assert of_pods == {"tandem_waiting_blocks", "tandem_cache_share"}
    told = (KUBERNETES / "components" / "autoscaling-hpa" / "README.md").read_text()
    assert set(re.findall(r"tandem_(?!cache_share)[a-z_]+", told)) <= names


def test_both_scalers_agree_on_how_many_there_may_be_and_how_quickly() -> None:
    keda, plain = composed("autoscaling"), composed("autoscaling-hpa")
    for service in ("tandem-draft", "tandem-target", "tandem-orchestrator"):
        first = one(keda, "ScaledObject", service)["spec"]
        other = one(plain, "HorizontalPodAutoscaler", service)["spec"]
        assert first["minReplicaCount"] == other["minReplicas"] and first["maxReplicaCount"] == other["maxReplicas"]
        assert first["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == other["behavior"]
        down = other["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 600 and down["policies"][0]["periodSeconds"] >= 180
