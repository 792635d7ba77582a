"""What the Compose files come to, as Compose reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from target_service.settings import TargetSettings
from tests.deploy.compose import ROOT, rendered

SETTINGS = {"draft": DraftSettings, "target": TargetSettings, "orchestrator": OrchestratorSettings}
OVERRIDES = [(), ("gpu",), ("tls",), ("keys",), ("gpu", "tls", "keys")]
PROFILES = ("monitoring", "replicas")
#: What .env.example offers without its default.
NAMED = r"COMPOSE_FILE|TORCH|BASE|TANDEM_REGISTRY|TANDEM_(TARGET|DRAFT)_(MODEL|REVISION)"


@pytest.fixture(params=OVERRIDES, ids="+".join)
def services(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """All services of every combination of files."""
    found: dict[str, Any] = rendered(tmp_path, *request.param, profiles=PROFILES)["services"]
    return found


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    """`docker compose up` as it is."""
    return rendered(tmp_path)


def runs(service: dict[str, Any]) -> str | None:
    """Which of our services it is: `target` of target-2; None of others and of `pull`."""
    match = re.search(r"tandem-(draft|target|orchestrator):", service["image"])
    return match[1] if match else None


def test_no_container_has_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[1-9]\d*(:\d+)?", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged") and "pid" not in service and "network_mode" not in service, name
        assert all("docker.sock" not in volume["source"] for volume in service["volumes"]), name
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0 and int(limits["memory"]) > 0 and limits["pids"] > 0, name


def test_only_the_orchestrator_is_reached_from_outside_and_only_from_this_machine(services: dict[str, Any]) -> None:
    published = {
        name: [(port["host_ip"], port["target"]) for port in service["ports"]]
        for name, service in services.items()
        if service.get("ports")
    }
    assert published.pop("orchestrator") == [("127.0.0.1", 7000), ("127.0.0.1", 7080)]
    assert published == {"prometheus": [("127.0.0.1", 9090)], "grafana": [("127.0.0.1", 3000)]}


def test_draft_and_target_have_no_way_out(tmp_path: Path) -> None:
    found = rendered(tmp_path, "gpu", profiles=PROFILES)
    assert found["networks"]["inside"]["internal"] is True
    for name in ("draft", "target", "draft-2", "target-2"):
        assert list(found["services"][name]["networks"]) == ["inside"], name


def test_the_orchestrator_is_opened_by_env_alone(tmp_path: Path) -> None:
    settings = {"TANDEM_BIND": "0.0.0.0", "TANDEM_GRPC_PORT": "9000", "TANDEM_HTTP_PORT": "9080"}
    ports = rendered(tmp_path, settings=settings)["services"]["orchestrator"]["ports"]
    assert [(port["host_ip"], port["published"]) for port in ports] == [("0.0.0.0", "9000"), ("0.0.0.0", "9080")]


def test_services_start_in_the_order_of_their_health(plain: dict[str, Any]) -> None:
    services = plain["services"]
    assert {name: each["condition"] for name, each in services["orchestrator"]["depends_on"].items()} == {
        "target": "service_healthy",
        "draft": "service_healthy",
    }
    for name in ("draft", "target"):
        assert services[name]["depends_on"]["pull"]["condition"] == "service_completed_successfully"
        assert services[name]["restart"] == services["orchestrator"]["restart"] == "unless-stopped"
    assert services["pull"]["restart"] == "no"


def test_only_pull_writes_models(services: dict[str, Any]) -> None:
    for name, service in services.items():
        mounts = [volume for volume in service["volumes"] if volume["source"] == "models"]
        if name in ("prometheus", "grafana"):
            assert not mounts
            continue
        (mount,) = mounts
        assert mount["target"] == "/var/lib/tandem"
        assert mount.get("read_only", False) is (name != "pull"), name


def test_draft_and_target_take_turns_by_one_file_in_memory(plain: dict[str, Any]) -> None:
    services, volume = plain["services"], plain["volumes"]["turns"]
    assert volume["driver_opts"]["type"] == "tmpfs" and "uid=65532" in volume["driver_opts"]["o"]
    paths = {services[name]["environment"][f"TANDEM_{name.upper()}_TURNS"] for name in ("draft", "target")}
    (path,) = paths
    for name in ("draft", "target"):
        (mount,) = (each for each in services[name]["volumes"] if each["source"] == "turns")
        assert Path(path).parent == Path(mount["target"]) and not mount.get("read_only")


def test_every_variable_that_is_set_is_a_setting_of_its_service(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if (kind := runs(service)) is None:
            continue
        prefix = f"TANDEM_{kind.upper()}_"
        ours = [variable for variable in service["environment"] if variable.startswith("TANDEM_")]
        for variable in ours:
            field = variable.removeprefix(prefix).lower()
            assert variable.startswith(prefix) and field in SETTINGS[kind].model_fields, f"{name}: {variable}"


def test_what_env_sets_reaches_the_services(tmp_path: Path) -> None:
    settings = {
        "TANDEM_TARGET_MODEL": "someone/large",
        "TANDEM_TARGET_REVISION": "abc",
        "TANDEM_DRAFT_MODEL": "someone/small",
        "TANDEM_TARGET_MAX_SESSIONS": "7",
        "TARGET_CPUS": "6",
        "TARGET_MEMORY": "20g",
    }
    services = rendered(tmp_path, settings=settings)["services"]
    target = services["target"]
    assert target["environment"]["TANDEM_TARGET_MAX_SESSIONS"] == "7"
    assert target["environment"]["TANDEM_TARGET_THREADS"] == "6"
    assert target["deploy"]["resources"]["limits"] == {"cpus": 6, "memory": str(20 << 30), "pids": 512}
    assert services["draft"]["environment"]["TANDEM_DRAFT_MODEL"] == "someone/small"
    # The tokenizer is the target's, and `pull` fetches what the three will look for.
    assert services["orchestrator"]["environment"]["TANDEM_ORCHESTRATOR_TOKENIZER"] == "someone/large"
    assert services["orchestrator"]["environment"]["TANDEM_ORCHESTRATOR_TOKENIZER_REVISION"] == "abc"
    for name in ("draft", "target", "orchestrator"):
        for variable, value in services[name]["environment"].items():
            if re.search(r"_(MODEL|REVISION|TOKENIZER|TOKENIZER_REVISION)$", variable):
                assert services["pull"]["environment"][variable] == value


def test_a_token_of_the_hub_is_for_pull_alone(tmp_path: Path) -> None:
    services = rendered(tmp_path)["services"]
    assert [name for name, service in services.items() if "HF_TOKEN" in service["environment"]] == ["pull"]


def test_every_replica_has_gpus_of_its_own_and_answers_to_one_name(tmp_path: Path) -> None:
    settings = {"TARGET_GPU": "4", "TARGET_2_GPU": "5", "DRAFT_GPU": "6", "DRAFT_2_GPU": "7"}
    services = rendered(tmp_path, "gpu", profiles=["replicas"], settings=settings)["services"]
    devices = {}
    for name, service in services.items():
        if (kind := runs(service)) not in ("draft", "target"):
            continue
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        devices[name] = device["device_ids"]
        assert service["environment"][f"TANDEM_{kind.upper()}_DEVICE"] == "cuda"
        assert name == kind or service["networks"]["inside"]["aliases"] == [kind]
        assert service["image"] == services[kind]["image"] and ("build" in service) is (name == kind)
        assert service["depends_on"]["pull"]["condition"] == "service_completed_successfully"
    assert devices == {"target": ["4"], "target-2": ["5"], "draft": ["6"], "draft-2": ["7"]}


def test_without_the_profile_there_are_no_replicas_and_no_monitoring(tmp_path: Path) -> None:
    assert set(rendered(tmp_path, "gpu")["services"]) == {"pull", "draft", "target", "orchestrator"}


def test_a_private_key_is_for_its_service_alone(tmp_path: Path) -> None:
    found = rendered(tmp_path, "tls", settings={"TANDEM_TLS": "/etc/tandem/tls"})
    for name in ("draft", "target", "orchestrator"):
        service = found["services"][name]
        secrets = {secret["source"] for secret in service["secrets"]}
        assert secrets == {"ca.pem", f"{name}.pem", f"{name}.key"}
        paths = {value for value in service["environment"].values() if str(value).startswith("/run/secrets/")}
        assert paths == {f"/run/secrets/{secret}" for secret in secrets}
    assert "secrets" not in found["services"]["pull"]
    assert {secret["file"] for secret in found["secrets"].values()} == {
        f"/etc/tandem/tls/{name}" for name in found["secrets"]
    }


def test_hashes_of_keys_come_from_the_file_that_env_names(tmp_path: Path) -> None:
    found = rendered(tmp_path, "keys", settings={"TANDEM_API_KEYS": "/etc/tandem/keys"})
    assert found["secrets"]["api-keys"]["file"] == "/etc/tandem/keys"
    assert found["services"]["orchestrator"]["environment"]["TANDEM_ORCHESTRATOR_API_KEYS"] == "/run/secrets/api-keys"


def test_images_of_others_are_pinned_by_digest_and_what_they_read_is_here(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert re.fullmatch(r"[\w./-]+:v?[\d.]+@sha256:[0-9a-f]{64}", service["image"]), name
        mounts = [Path(volume["source"]) for volume in service["volumes"] if volume["type"] == "bind"]
        assert mounts
        for mount in mounts:
            assert (ROOT / "deploy" / str(mount).split("/deploy/")[1]).exists(), mount


def test_images_of_ours_are_built_from_one_file(services: dict[str, Any]) -> None:
    text = (ROOT / "deploy/images/Dockerfile").read_text()
    for name in ("pull", "draft", "target", "orchestrator"):
        build = services[name]["build"]
        assert build["dockerfile"] == "deploy/images/Dockerfile"
        assert f" AS {build['target']}\n" in text and services[name]["image"].endswith(f"tandem-{name}:latest")


def test_the_example_of_env_offers_the_defaults(tmp_path: Path) -> None:
    """But for what it can only name: models, files, registries and builds."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    offered = dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z_0-9]+=", line))
    settings = {name: value for name, value in offered.items() if not re.fullmatch(NAMED, name)}
    assert len(settings) > 15
    found = []
    for name, values in (("with", settings), ("without", {})):
        (folder := tmp_path / name).mkdir()
        whole = rendered(folder, "gpu", "tls", "keys", profiles=PROFILES, settings=values)
        for service in whole["services"].values():
            for variable in settings:  # all of .env is in the environment too
                service.get("environment", {}).pop(variable, None)
        found.append(json.dumps(whole).replace(str(folder), ""))
    assert found[0] == found[1]
