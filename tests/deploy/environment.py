"""What a container of the manifests finds when it starts: variables, files of Secrets, and the settings they make."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from tandem.settings import ServiceSettings, load_settings
from tandem.v1 import completion_pb2, draft_pb2, target_pb2
from target_service.settings import TargetSettings
from tests.deploy.certificates import Authority
from tests.deploy.manifests import Object, Pod, composed, kinds, one, pods, quantity, variants

SETTINGS: dict[str, type[ServiceSettings]] = {
    "draft": DraftSettings,
    "target": TargetSettings,
    "orchestrator": OrchestratorSettings,
}

#: What each service is called at its gRPC health.
HEALTH = {
    "draft": draft_pb2.DESCRIPTOR.services_by_name["DraftService"].full_name,
    "target": target_pb2.DESCRIPTOR.services_by_name["TargetService"].full_name,
    "orchestrator": completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].full_name,
}


def every_pod() -> Iterator[tuple[tuple[Object, ...], Pod]]:
    for components in variants():
        objects = composed(*components)
        for pod in pods(objects):
            yield objects, pod


def services() -> Iterator[tuple[tuple[Object, ...], Pod]]:
    """Pods that serve."""
    for objects, pod in every_pod():
        if pod.service in SETTINGS:
            yield objects, pod


def variables(objects: Iterable[Object], container: Object) -> dict[str, str]:
    """The environment that Kubernetes gives to a container, but for what Secrets hold."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
        elif "resourceFieldRef" in each["valueFrom"]:
            reference = each["valueFrom"]["resourceFieldRef"]
            assert reference["containerName"] == container["name"]
            section, resource = reference["resource"].split(".")
            found[each["name"]] = str(math.ceil(quantity(container["resources"][section][resource])))
        else:
            assert each["valueFrom"]["secretKeyRef"]["optional"], each
    return found


def placed(objects: Iterable[Object], pod: Pod, folder: Path, authority: Authority) -> dict[str, str]:
    """The variables of a service, and the files that they name, made below `folder` as their Secrets hold them."""
    found = variables(objects, pod.main)
    for name, value in found.items():
        if value.startswith("/etc/tandem/"):
            found[name] = str(folder) + value
            _make(objects, pod, Path(value), Path(found[name]), authority)
    return found


def _make(objects: Iterable[Object], pod: Pod, mounted: Path, made: Path, authority: Authority) -> None:
    (volume_name,) = [mount["name"] for mount in pod.main["volumeMounts"] if mount["mountPath"] == str(mounted.parent)]
    (volume,) = [volume for volume in pod.spec["volumes"] if volume["name"] == volume_name]
    secret = volume["secret"]["secretName"]
    if secret == "tandem-api-keys":
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text('{"keys": []}')
    elif not made.exists():
        (certificate,) = [each for each in kinds(objects, "Certificate") if each["spec"]["secretName"] == secret]
        authority.issue(certificate["spec"], made.parent)
        assert made.exists(), f"a certificate's Secret has no {made.name}"


def settings_of(
    objects: Iterable[Object], pod: Pod, folder: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> ServiceSettings:
    """As the service itself reads them."""
    for name in list(os.environ):
        if name.startswith("TANDEM_"):
            monkeypatch.delenv(name)
    for name, value in placed(objects, pod, folder, authority).items():
        monkeypatch.setenv(name, value)
    return load_settings(SETTINGS[pod.service], [])
