"""Every object is one that its API takes: built-in kinds by Kubernetes' own schemas, others by the fields they have.

TANDEM_TEST_CRDS names a folder with the definitions of the other kinds, as their projects publish them; with it those
are what counts, too.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.custom import FIELDS, is_custom
from tests.deploy.definitions import validators
from tests.deploy.manifests import KUBERNETES, Object, composed, kustomize, needs_kubectl, variants

kubernetes_validate = pytest.importorskip("kubernetes_validate")
pytestmark = needs_kubectl

#: The oldest that the README names, and the newest whose schemas are there.
VERSIONS = ("1.31", kubernetes_validate.latest_version())

_TYPES = {"string": str, "integer": int, "boolean": bool}


def problems(value: Any, shape: Any, where: str, objects: list[tuple[str, Object]]) -> list[str]:
    """What of `value` is not of `shape`. Embedded objects of Kubernetes are added to `objects`, with their schema."""
    if isinstance(shape, str) and shape.startswith("kubernetes:"):
        objects.append((shape.removeprefix("kubernetes:"), value))
        return []
    if shape == "any":
        return []
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [p for at, each in enumerate(value) for p in problems(each, shape[0], f"{where}[{at}]", objects)]
    if isinstance(shape, str) and shape not in _TYPES:  # one of several values
        return [] if value in shape.split("|") else [f"{where} is {value!r}, not {shape}"]
    if isinstance(shape, str):
        fits = isinstance(value, _TYPES[shape]) and not (shape == "integer" and isinstance(value, bool))
        return [] if fits else [f"{where} is {value!r}, not {shape}"]
    if not isinstance(value, dict):
        return [f"{where} is no object"]
    fields = {name.rstrip("!"): each for name, each in shape.items()}
    found = [f"{where}.{name} is no field" for name in value if name not in fields and "*" not in fields]
    found += [f"{where}.{name[:-1]} is missing" for name in shape if name.endswith("!") and name[:-1] not in value]
    for name, each in value.items():
        if (inner := fields.get(name, fields.get("*"))) is not None:
            found += problems(each, inner, f"{where}.{name}", objects)
    return found


def check(each: Object) -> None:
    if not is_custom(each):
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)
        return
    embedded: list[tuple[str, Object]] = []
    shape = FIELDS[f"{each['apiVersion']} {each['kind']}"]
    assert problems(each.get("spec"), shape, f"{each['kind']}.spec", embedded) == []
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": each["metadata"]}
    kubernetes_validate.validate(metadata, VERSIONS[0], strict=True)
    for kind, value in embedded:
        assert kind == "PodTemplate"
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": value}
        for version in VERSIONS:
            kubernetes_validate.validate(template, version, strict=True)


def _every_object() -> list[Any]:
    """Each once, however many variants have it."""
    found: dict[str, Object] = {}
    for components in variants():
        for each in composed(*components):
            found.setdefault(repr(each), each)
    for each in kustomize(KUBERNETES / "overlays" / "example"):
        found.setdefault(repr(each), each)
    return list(found.values())


def test_every_object_is_valid() -> None:
    objects = _every_object()
    assert len(objects) > 60
    for each in objects:
        try:
            check(each)
        except Exception as error:
            raise AssertionError(f"{each['kind']} {each['metadata']['name']}: {str(error)[:2000]}") from error


@pytest.mark.skipif("TANDEM_TEST_CRDS" not in os.environ, reason="TANDEM_TEST_CRDS names no definitions")
def test_every_custom_object_is_as_its_project_defines_it() -> None:
    defined = validators(Path(os.environ["TANDEM_TEST_CRDS"]))
    checked = set()
    for each in _every_object():
        if is_custom(each):
            kind = f"{each['apiVersion']} {each['kind']}"
            assert kind in defined, f"no definition of {kind}"
            found = [f"{list(error.path)}: {error.message[:300]}" for error in defined[kind].iter_errors(each)]
            assert found == [], f"{kind} {each['metadata']['name']}"
            assert [*defined[kind].iter_errors(each | {"spec": each["spec"] | {"unknown": 1}})]
            checked.add(kind)
    assert checked == set(FIELDS)


@pytest.mark.parametrize("change", ["unknown field", "wrong type", "custom unknown", "custom missing", "in a group"])
def test_an_object_that_is_wrong_is_found(change: str) -> None:
    """The checks above can fail."""
    objects = copy.deepcopy([*composed("tls"), *composed("model-cache", "multi-host")])
    deployment = next(each for each in objects if each["kind"] == "Deployment")
    certificate = next(each for each in objects if each["kind"] == "Certificate")
    group = next(each for each in objects if each["kind"] == "LeaderWorkerSet")
    wrong = {"unknown field": deployment, "wrong type": deployment, "in a group": group}.get(change, certificate)
    if change == "unknown field":
        deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    elif change == "wrong type":
        deployment["spec"]["replicas"] = "two"
    elif change == "custom unknown":
        certificate["spec"]["dnsName"] = "x"
    elif change == "custom missing":
        del certificate["spec"]["secretName"]
    else:
        group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["container"] = []
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check(wrong)
