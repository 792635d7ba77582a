"""Services, budgets and scalers fit the pods that they are for, whatever components are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.environment import variables
from tests.deploy.manifests import Object, composed, kinds, needs_kubectl, one, pods, selects, variants

pytestmark = needs_kubectl


def test_services_select_what_serves_and_name_ports_that_it_has() -> None:
    for components in variants():
        objects = composed(*components)
        for service in kinds(objects, "Service"):
            selected = [pod for pod in pods(objects) if selects(service["spec"]["selector"], pod.labels)]
            assert len(selected) == 1, service["metadata"]["name"]
            assert selected[0].service == service["metadata"]["name"].removeprefix("tandem-")
            ports = {port["name"]: port["containerPort"] for port in selected[0].main["ports"]}
            for port in service["spec"]["ports"]:
                # Equal, since a headless Service has no port of its own.
                assert ports[port["targetPort"]] == port["port"], service["metadata"]["name"]


def test_the_orchestrator_finds_every_replica_by_a_headless_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for components in variants():
        objects = composed(*components)
        (pod,) = [pod for pod in pods(objects) if pod.service == "orchestrator"]
        found = variables(objects, pod.main)
        for service in ("target", "draft"):
            host, port = found[f"TANDEM_ORCHESTRATOR_{service.upper()}"].split(":")
            spec = one(objects, "Service", host)["spec"]
            assert spec["clusterIP"] == "None" and spec["publishNotReadyAddresses"] is False
            assert int(port) in [each["port"] for each in spec["ports"] if each["name"] == "grpc"]
            if "tls" in components:
                names = one(objects, "Certificate", f"tandem-{service}")["spec"]["dnsNames"]
                assert host in names  # the name that is checked


def test_workloads_select_their_own_pods_and_no_others() -> None:
    for components in variants():
        objects = composed(*components)
        for each in kinds(objects, "Deployment", "PodDisruptionBudget"):
            selected = [pod for pod in pods(objects) if selects(each["spec"]["selector"], pod.labels)]
            assert [pod.service for pod in selected] == [each["metadata"]["name"].removeprefix("tandem-")]
        for pod in pods(objects):
            terms = [
                term["podAffinityTerm"]["labelSelector"]
                for term in pod.spec.get("affinity", {})
                .get("podAffinity", {})
                .get("preferredDuringSchedulingIgnoredDuringExecution", [])
            ] + [each["labelSelector"] for each in pod.spec.get("topologySpreadConstraints", [])]
            for selector in terms:
                assert any(selects(selector, other.labels) for other in pods(objects)), pod.name


def test_a_budget_keeps_a_replica_and_lets_a_node_be_emptied() -> None:
    for components in variants():
        objects = composed(*components)
        for budget in kinds(objects, "PodDisruptionBudget"):
            name = budget["metadata"]["name"]
            if name == "tandem-target" and "multi-host" in components:
                continue  # one group, by default
            assert budget["spec"]["maxUnavailable"] == 1
            assert _least_replicas(objects, name) >= 2, name


def _least_replicas(objects: tuple[Object, ...], name: str) -> int:
    deployment = one(objects, "Deployment", name)
    scalers = [each for each in kinds(objects, "ScaledObject", "HorizontalPodAutoscaler")
               if each["metadata"]["name"] == name]  # fmt: skip
    if not scalers:
        return int(deployment["spec"]["replicas"])
    (scaler,) = scalers
    assert "replicas" not in deployment["spec"], "an apply would set back what the scaler has set"
    return int(scaler["spec"].get("minReplicas") or scaler["spec"]["minReplicaCount"])


def test_what_scales_names_a_workload_that_is_there() -> None:
    for components in variants():
        objects = composed(*components)
        for scaler in kinds(objects, "ScaledObject", "HorizontalPodAutoscaler"):
            target = scaler["spec"]["scaleTargetRef"]
            assert one(objects, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
