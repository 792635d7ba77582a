"""Every pod that the manifests make is closed as far as it can be, whatever components are used."""

from __future__ import annotations

import re
from pathlib import Path

from tandem import __version__
from tests.deploy.environment import every_pod, variables
from tests.deploy.manifests import ROOT, kinds, needs_kubectl, one, quantity

pytestmark = needs_kubectl


def test_every_pod_meets_the_restricted_standard() -> None:
    """Kubernetes' Pod Security standard `restricted`, and a root file system that cannot be written."""
    volumes = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    count = 0
    for _, pod in every_pod():
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] > 0, pod.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod.name
        assert {kind for volume in pod.spec["volumes"] for kind in volume if kind != "name"} <= volumes, pod.name
        for container in pod.containers:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, pod.name
            assert own["capabilities"] == {"drop": ["ALL"]}, pod.name
            assert not any("hostPort" in port for port in container.get("ports", [])), pod.name
            count += 1
    assert count > 50


def test_no_pod_can_talk_to_the_api_server() -> None:
    for objects, pod in every_pod():
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        account = one(objects, "ServiceAccount", pod.spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


def test_no_variable_of_a_service_is_set_by_kubernetes_itself() -> None:
    """A Service tandem-draft would set TANDEM_DRAFT_PORT to tcp://..., were it not for this."""
    for _, pod in every_pod():
        assert pod.spec["enableServiceLinks"] is False, pod.name


def test_every_volume_and_secret_that_is_named_is_there_or_said_to_be_made_by_hand() -> None:
    by_hand = {"tandem-hugging-face", "tandem-api-keys"}
    for objects, pod in every_pod():
        made = {each["spec"]["secretName"] for each in kinds(objects, "Certificate")}
        for volume in pod.spec["volumes"]:
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                assert name in made | by_hand or volume["secret"].get("optional"), f"{pod.name}: {name}"
            if "persistentVolumeClaim" in volume:
                assert one(objects, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        for container in pod.containers:
            named = {volume["name"] for volume in pod.spec["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= named, pod.name


def test_models_are_read_where_they_are_fetched_to_and_only_who_fetches_may_write_them() -> None:
    for objects, pod in every_pod():
        for container in pod.containers:
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == "models"]
            found = variables(objects, container)
            assert found["TANDEM_HOME"] == mount["mountPath"] and Path(found["HF_HOME"]).is_relative_to(
                mount["mountPath"]
            )
            fetches = container["image"].split(":")[0] == "tandem-pull"
            assert fetches != mount.get("readOnly", False), pod.name
            # The token, and the way out, are of those who fetch.
            assert fetches == ("HF_TOKEN" in str(container.get("env"))), pod.name
            assert fetches != (found.get("HF_HUB_OFFLINE") == "1"), pod.name
        fetching = any(container["image"].startswith("tandem-pull:") for container in pod.containers)
        assert fetching == (pod.labels.get("tandem-fetches-models") == "true"), pod.name


def test_images_are_those_that_are_built_and_have_this_version() -> None:
    for _, pod in every_pod():
        for container in pod.containers:
            name, tag = container["image"].split(":")
            assert tag == __version__, f"{pod.name}: {container['image']}"
            fetches = name == "tandem-pull"
            assert fetches or name == f"tandem-{pod.service.removesuffix('-worker')}", pod.name
    compose_file = ROOT / "docker-compose.yml"
    built = set(re.findall(r"image: \S*?(tandem-\w+)", compose_file.read_text()))
    assert built == {"tandem-draft", "tandem-target", "tandem-orchestrator", "tandem-pull"}


def test_every_container_says_what_it_needs() -> None:
    for _, pod in every_pod():
        for container in pod.containers:
            resources = container["resources"]
            for resource in ("cpu", "memory"):
                assert quantity(resources["requests"][resource]) <= quantity(resources["limits"][resource]), pod.name
