"""The images' locks hold what pyproject.toml asks for, with hashes, and name no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/requirements"
LOCKS = ["orchestrator", "models", "torch-cuda"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REMEDY = "run `make lock` and commit the result"


def locked(name: str) -> dict[str, Version]:
    """Version of each package; asserts that the file holds nothing but versions with hashes, and comments."""
    text = re.sub(r"\\\n", "", (FOLDER / f"{name}.txt").read_text())
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.strip().startswith("#"):
            continue
        matched = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert matched is not None, f"{name}.txt: {line[:120]}"
        found[matched[1]] = Version(matched[2])
    return found


def unmet(requirements: list[str], versions: dict[str, Version]) -> list[str]:
    wanted = [Requirement(text) for text in requirements]
    return [
        str(each)
        for each in wanted
        if (found := versions.get(canonicalize_name(each.name))) is None or not each.specifier.contains(found)
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes_and_no_place(name: str) -> None:
    assert locked(name)
    assert "://" not in (FOLDER / f"{name}.txt").read_text()


def test_the_locks_meet_what_the_project_asks_for() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    base, models = [*project["dependencies"], *extras["tracing"]], extras["models"]
    torch = [text for text in models if Requirement(text).name == "torch"]
    assert unmet(base, locked("orchestrator")) == [], REMEDY
    assert unmet([*base, *(text for text in models if text not in torch)], locked("models")) == [], REMEDY
    assert unmet(torch, locked("torch-cuda")) == [], REMEDY


def test_what_a_lock_lacks_is_seen() -> None:
    versions = locked("orchestrator")
    assert unmet(["no-such-package"], versions) and unmet([f"grpcio<{versions['grpcio']}"], versions)


def test_one_package_has_one_version_in_all_images() -> None:
    everything = {name: locked(name) for name in LOCKS}
    for one in everything.values():
        for other in everything.values():
            for package in one.keys() & other.keys():
                assert one[package] == other[package], package
    assert everything["orchestrator"].keys() <= everything["models"].keys()


def test_torch_is_in_its_own_lock_alone_and_is_the_makefiles() -> None:
    assert not {"torch", "transformers", "triton"} & locked("orchestrator").keys()
    models = locked("models")
    assert "transformers" in models and "torch" not in models
    assert not [name for name in models if name.startswith(("nvidia-", "cuda-"))]
    torch = f"torch=={locked('torch-cuda')['torch']}"
    assert f"TORCH ?= {torch}\n" in (ROOT / "Makefile").read_text()
    assert (FOLDER / "torch.in").read_text() == f"{torch}\n"
