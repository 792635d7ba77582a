from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REMEDY = "tandem/v1 does not match protos/: run `make protos` and commit the result"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "protos/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in load_generator().generate(tmp_path_factory.mktemp("stubs"))
    }


def test_committed_stubs_are_fresh(fresh: dict[str, bytes]) -> None:
    committed = {file.name: file.read_bytes() for file in (ROOT / "tandem/v1").iterdir() if file.is_file()}
    assert sorted(committed) == sorted(fresh), REMEDY
    stale = [name for name in fresh if committed[name] != fresh[name]]
    assert stale == [], REMEDY


def test_only_files_with_services_have_grpc_classes(fresh: dict[str, bytes]) -> None:
    assert {name for name in fresh if name.endswith("_grpc.py")} == {
        "completion_pb2_grpc.py",
        "draft_pb2_grpc.py",
        "target_pb2_grpc.py",
    }
    for name, code in fresh.items():
        if name.endswith("_grpc.py"):
            assert b"class " in code and name.replace(".py", ".pyi") in fresh


def test_generating_again_repairs_changed_and_removes_stale_files(
    tmp_path: Path, fresh: dict[str, bytes]
) -> None:
    package = tmp_path / "tandem/v1"
    package.mkdir(parents=True)
    (package / "gone_pb2.py").write_text("")
    (package / "draft_pb2.py").write_text("changed by hand")
    load_generator().generate(tmp_path)
    assert {file.name: file.read_bytes() for file in package.iterdir()} == fresh
