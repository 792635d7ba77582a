"""The kustomizations of deploy/kubernetes: each renders, and they go together."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import (
    ALTERNATIVES,
    COMPONENTS,
    KUBERNETES,
    LAST,
    alone,
    compose,
    composed,
    everything,
    kinds,
    kustomize,
    needs_kubectl,
    one,
    pods,
    variants,
)

pytestmark = needs_kubectl


def normal(value: Any) -> Any:
    """Lists without their order: of volumes, variables and ports it says nothing."""
    if isinstance(value, dict):
        return {key: normal(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((normal(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


def test_the_base_is_the_three_services_and_what_belongs_to_them() -> None:
    objects = composed()
    found = {(each["kind"], each["metadata"]["name"].rsplit("-", 1)[0] if each["kind"] == "ConfigMap" else
              each["metadata"]["name"]) for each in objects}  # fmt: skip
    services = ("tandem-draft", "tandem-target", "tandem-orchestrator")
    of_each = ("ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount")
    assert found == {("Namespace", "tandem"), *((kind, name) for kind in of_each for name in services)}


def test_the_base_asks_for_no_gpu_and_nothing_that_is_not_part_of_kubernetes() -> None:
    objects = composed()
    assert "nvidia" not in json.dumps(objects)
    assert not any("." in each["apiVersion"].split("/")[0] and "k8s.io" not in each["apiVersion"] for each in objects)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_goes_with_the_base_alone(component: str) -> None:
    with_it, without = normal(list(alone(component))), normal(list(composed()))
    assert with_it != without


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_patch_of_a_component_hits_what_it_is_for(component: str) -> None:
    """A patch whose target is not there is passed over without a word, so each is tried by itself."""
    folder = KUBERNETES / "components" / component
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    before = list(composed(*ALTERNATIVES[:1], "model-cache")) + list(composed(*ALTERNATIVES[1:]))
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        names = {each["metadata"]["name"] for each in kinds(before, target["kind"])}
        wanted = target["name"]
        parts = (
            {f"tandem-{part}" for part in wanted.split("(")[1].rstrip(")").split("|")} if "(" in wanted else {wanted}
        )
        assert parts <= names, f"{component}: {wanted} is no {target['kind']}"


@pytest.mark.parametrize("seed", range(4))
def test_components_go_together_in_any_order_and_make_the_same(seed: int) -> None:
    wanted = {json.dumps(normal(each), sort_keys=True) for each in composed(*everything())}
    order = [name for name in everything() if name != LAST]
    random.Random(seed).shuffle(order)
    found = {json.dumps(normal(each), sort_keys=True) for each in composed(*order, LAST)}
    assert found == wanted


def test_an_overlay_names_registry_tag_and_namespace_of_everything() -> None:
    names = ("tandem-draft", "tandem-target", "tandem-orchestrator", "tandem-pull")
    images = [{"name": name, "newName": f"registry.test/{name}", "newTag": "9"} for name in names]
    objects = compose(everything(), images=images, namespace="elsewhere")
    found = {container["image"] for pod in pods(objects) for container in pod.containers}
    assert found == {f"registry.test/{name}:9" for name in names}
    for each in objects:
        metadata = each["metadata"]
        assert metadata["name" if each["kind"] == "Namespace" else "namespace"] == "elsewhere", each


def test_a_changed_setting_rolls_out_what_reads_it_and_nothing_else() -> None:
    merged = [{"name": "tandem-target", "behavior": "merge", "literals": ["TANDEM_TARGET_MODEL=other"]}]
    changed = compose(everything(), configMapGenerator=merged)

    def references(objects: Any, service: str) -> set[str]:
        return {
            source["configMapRef"]["name"]
            for pod in pods(objects)
            for container in pod.containers
            for source in container["envFrom"]
            if source["configMapRef"]["name"].startswith(f"tandem-{service}-")
        }

    before = composed(*everything())
    for service in ("draft", "target", "orchestrator"):
        assert len(references(changed, service)) == 1  # the hosts of a group included
        assert (references(changed, service) != references(before, service)) == (service == "target")
        (name,) = references(changed, service)
        assert one(changed, "ConfigMap", name)


def test_no_two_objects_have_one_name_and_all_are_labelled() -> None:
    for components in variants():
        objects = composed(*components)
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(names) == len(set(names))
        for each in objects:
            labels = each["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "tandem", each


def test_the_example_overlay_composes() -> None:
    objects = kustomize(KUBERNETES / "overlays" / "example")
    found = {each["kind"] for each in objects}
    assert {"Certificate", "NetworkPolicy", "PrometheusRule", "ServiceMonitor", "ScaledObject", "Job"} <= found
    images = {container["image"] for pod in pods(objects) for container in pod.containers}
    assert all(image.startswith("registry.example.com/") for image in images)
    assert {pod.main["resources"]["limits"].get("nvidia.com/gpu") for pod in pods(objects)} == {None, "1"}


def test_every_component_has_a_readme_and_is_listed() -> None:
    listed = (KUBERNETES / "README.md").read_text()
    for component in COMPONENTS:
        assert (KUBERNETES / "components" / component / "README.md").is_file()
        assert f"components/{component}/README.md" in listed
