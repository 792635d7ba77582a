"""Every pod starts its service with settings that it has and that fit the pod, whatever components are used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.certificates import Authority
from tests.deploy.environment import HEALTH, SETTINGS, every_pod, services, settings_of, variables
from tests.deploy.manifests import composed, everything, kinds, needs_kubectl, pods

pytestmark = needs_kubectl


def test_every_variable_is_a_setting_that_the_service_has() -> None:
    for objects, pod in every_pod():
        for container in pod.containers:
            for name in variables(objects, container):
                match = re.fullmatch(r"TANDEM_(DRAFT|TARGET|ORCHESTRATOR)_(\w+)", name)
                if match is None:
                    assert name in ("TANDEM_HOME", "HF_HOME", "HF_HUB_OFFLINE"), f"{pod.name}: {name}"
                    continue
                fields = SETTINGS[match[1].lower()].model_fields
                assert match[2].lower() in fields, f"{pod.name}: {name} is no setting"
                if pod.service in SETTINGS:
                    assert match[1].lower() == pod.service, f"{pod.name}: {name} is another service's"


def test_every_service_reads_its_settings_and_they_fit_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    for number, (objects, pod) in enumerate(services()):
        settings: Any = settings_of(objects, pod, tmp_path / str(number), monkeypatch, authority)
        ports = {port["name"]: port["containerPort"] for port in pod.main["ports"]}
        assert settings.host == "0.0.0.0", pod.name
        assert (settings.port, settings.metrics_port) == (ports["grpc"], ports["metrics"]), pod.name
        if pod.service == "orchestrator":
            assert settings.http_port == ports["http"]
        else:
            gpu = "nvidia.com/gpu" in pod.main["resources"]["limits"]
            assert settings.device == ("cuda" if gpu and "DEVICE" in str(variables(objects, pod.main)) else "auto")
        # The kill comes after the service has given its streams all the time that it was told to.
        stop = pod.main["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod.spec["terminationGracePeriodSeconds"] >= stop + settings.grace_seconds + 10, pod.name
        for part in pod.main.get("command", []):
            if part.startswith("--shutdown-timeout="):  # torchrun's own
                assert int(part.split("=")[1]) > settings.grace_seconds


def test_probes_ask_for_services_that_there_are_on_the_port_that_serves() -> None:
    for objects, pod in services():
        ports = {port["name"]: port["containerPort"] for port in pod.main["ports"]}
        encrypted = "TLS_CERTIFICATE" in str(variables(objects, pod.main))
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = pod.main[kind]
            assert probe["timeoutSeconds"] <= probe["periodSeconds"], pod.name
            asked = HEALTH[pod.service] if kind == "readinessProbe" else ""
            if "exec" in probe:
                command = ["python", "-m", "tandem.probe", pod.service]
                assert probe["exec"]["command"] == [*command, *(["--probe-service", asked] if asked else [])], pod.name
                continue
            assert not encrypted, f"{pod.name}: a native probe knows no TLS"
            assert probe["grpc"]["port"] == ports["grpc"] and probe["grpc"].get("service", "") == asked, pod.name


def test_a_rollout_waits_longer_than_the_slowest_start() -> None:
    for _, pod in services():
        if pod.owner["kind"] == "Deployment":
            probe = pod.main["startupProbe"]
            assert pod.owner["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_the_hosts_of_a_group_run_one_command_and_only_the_leader_serves() -> None:
    objects = composed(*everything())
    leader, worker = (pod for pod in pods(objects) if pod.owner["kind"] == "LeaderWorkerSet")
    assert leader.main["command"] == worker.main["command"]
    assert leader.service == "target" and worker.service not in SETTINGS
    per_node = next(part for part in leader.main["command"] if part.startswith("--nproc-per-node="))
    for pod in (leader, worker):
        assert pod.main["resources"]["limits"]["nvidia.com/gpu"] == per_node.split("=")[1]
        assert pod.main["envFrom"] == leader.main["envFrom"]
        assert pod.main["lifecycle"] == leader.main["lifecycle"]
    # The controller makes a Service of its own by the set's name.
    assert leader.owner["metadata"]["name"] not in [each["metadata"]["name"] for each in kinds(objects, "Service")]


def test_the_leader_has_what_the_deployment_has() -> None:
    """The group is written out, so that what is changed in the base could be forgotten there."""
    (usual,) = [pod for pod in pods(composed("gpu", "model-cache", "tls")) if pod.service == "target"]
    (leader,) = [pod for pod in pods(composed(*everything())) if pod.service == "target"]
    for part in ("securityContext", "terminationGracePeriodSeconds", "tolerations", "enableServiceLinks"):
        assert leader.spec[part] == usual.spec[part], part
    for part in ("image", "lifecycle", "securityContext"):
        assert leader.main[part] == usual.main[part], part
    threads = {"name": "TANDEM_TARGET_THREADS"}
    of_both = [{**each, "valueFrom": None} for each in usual.main["env"] if each["name"] != threads["name"]]
    assert [{**each, "valueFrom": None} for each in leader.main["env"]] == of_both
