"""No code comes with a model: nothing here reads a pickle or lets transformers run what a folder brings.

What happens to a folder that has either is tested in tests/models/test_loading.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tandem", "draft_service", "target_service", "orchestrator", "bench")
#: What reads pickles, whatever it is called on. `safetensors.torch.load_file` is not one of them.
READERS = {
    ("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("joblib", "load"),
    ("numpy", "load"), ("np", "load"), ("dill", "load"), ("dill", "loads"),
}  # fmt: skip


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "v1" not in path.parts:
                yield path, ast.parse(path.read_text("utf-8"))


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_nothing_reads_a_pickle() -> None:
    looked = 0
    for path, tree in trees():
        looked += 1
        for call in calls(tree):
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                assert (call.func.value.id, call.func.attr) not in READERS, f"{path}:{call.lineno}"
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, path
    assert looked > 100


def test_remote_code_is_refused_wherever_transformers_could_run_it() -> None:
    found = 0
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.lineno}"
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                        assert isinstance(value, ast.Constant) and value.value is False, f"{path}:{node.lineno}"
        for call in calls(tree):
            function = call.func
            if not (isinstance(function, ast.Attribute) and function.attr == "from_pretrained"):
                continue
            if not (isinstance(function.value, ast.Name) and function.value.id.startswith("Auto")):
                continue
            found += 1
            given = {keyword.arg for keyword in call.keywords}
            assert given & {"trust_remote_code", None}, f"{path}:{call.lineno} does not say trust_remote_code=False"
    assert found >= 4
