"""What `kubectl kustomize` makes of deploy/kubernetes, and the pods in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"

Object = dict[str, Any]

#: What a component cannot do without, besides the base.
NEEDS = {"multi-host": ("model-cache",), "gateway-inference": ("gateway",)}
#: Of these two one is used.
ALTERNATIVES = ("autoscaling", "autoscaling-hpa")
#: Takes the place of what others patch, so that it comes after them.
LAST = "multi-host"
COMPONENTS = tuple(sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")))

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, for `kubectl kustomize`")


@dataclass(frozen=True)
class Pod:
    """A pod template. owner: its Deployment, Job or LeaderWorkerSet. role: which of the owner's templates."""

    owner: Object
    role: str
    labels: dict[str, str]
    spec: Object

    @property
    def name(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']} {self.role}".strip()

    @property
    def service(self) -> str:
        """draft, target, orchestrator, or what else it is."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def main(self) -> Object:
        (container,) = self.spec["containers"]
        assert isinstance(container, dict)
        return container


def kustomize(folder: Path) -> list[Object]:
    """The objects that `kubectl apply -k` would apply."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings of what is deprecated
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def compose(components: Sequence[str] = (), **fields: Any) -> list[Object]:
    """The base with `components`, in this order. fields: more of the kustomization."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        here = Path(os.path.relpath(KUBERNETES.resolve(), folder))
        kustomization = {
            "resources": [str(here / "base")],
            "components": [str(here / "components" / name) for name in components],
            **fields,
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(folder)


@cache
def composed(*components: str) -> tuple[Object, ...]:
    """The same, made once; not to be changed."""
    return tuple(compose(components))


def alone(component: str) -> tuple[Object, ...]:
    """The base with one component, and what that one needs."""
    return composed(*NEEDS.get(component, ()), component)


def everything() -> tuple[str, ...]:
    """All components that go together, in an order that is allowed."""
    rest = [name for name in COMPONENTS if name not in (LAST, ALTERNATIVES[1])]
    return (*rest, LAST)


def variants() -> list[tuple[str, ...]]:
    """Lists of components between which every object that there can be occurs."""
    return [(), *((*NEEDS.get(name, ()), name) for name in COMPONENTS), everything()[:-1], everything()]


def kinds(objects: Iterable[Object], *names: str) -> list[Object]:
    return [each for each in objects if each["kind"] in names]


def one(objects: Iterable[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in kinds(objects, kind) if each["metadata"]["name"] == name]
    return found


def pods(objects: Iterable[Object]) -> Iterator[Pod]:
    for each in objects:
        spec = each.get("spec", {})
        if "leaderWorkerTemplate" in spec:
            for role in ("leader", "worker"):
                template = spec["leaderWorkerTemplate"][f"{role}Template"]
                yield Pod(each, role, template["metadata"]["labels"], template["spec"])
        elif "template" in spec:
            yield Pod(each, "", spec["template"]["metadata"]["labels"], spec["template"]["spec"])


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector, or the plain labels of a Service's, holds for `labels`."""
    if not {"matchLabels", "matchExpressions"} & set(selector):
        selector = {"matchLabels": selector}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] in ("In", "Exists"), expression
        if expression["key"] not in labels:
            return False
        if expression["operator"] == "In" and labels[expression["key"]] not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def quantity(text: str) -> float:
    """`500m`, `2` or `4Gi` as a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Ki|Mi|Gi|Ti|)", text)
    assert match, text
    return float(match[1]) * {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[match[2]]
