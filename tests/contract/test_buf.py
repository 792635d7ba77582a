"""buf's lint and breaking rules hold, and each check is able to fail. All of it works without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
BUF = Path(sys.executable).parent / "buf"


@pytest.fixture
def buf(tmp_path: Path):
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BUF_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.run([BUF, *arguments], env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contract, to be spoiled."""
    return shutil.copytree(PROTOS, tmp_path / "protos")


def spoil(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text(), count=1)
    assert count == 1, f"{pattern} is no longer in {file.name}"
    file.write_text(text)


def test_lint_passes(buf) -> None:
    done = buf("lint", PROTOS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_incompatible_since_the_baseline(buf) -> None:
    done = buf("breaking", PROTOS, "--against", PROTOS / "baseline.binpb")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "pattern, replacement, rule",
    [
        (r"uint64 position = 1;", "uint64 Position = 1;", "Position"),
        (r"  // Which limit ended it\.\n", "", "stop"),
        (r"  DRAFT_STOP_UNSPECIFIED = 0;", "  DRAFT_STOP_NONE = 0;", "DRAFT_STOP_NONE"),
    ],
    ids=["field name", "field without a sentence", "enum without unspecified"],
)
def test_lint_finds_bad_style(buf, copy: Path, pattern: str, replacement: str, rule: str) -> None:
    file = next(file for file in sorted(copy.rglob("*.proto")) if re.search(pattern, file.read_text()))
    spoil(file, pattern, replacement)
    done = buf("lint", copy)
    assert done.returncode == 100 and rule in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "pattern, replacement, complaint",
    [
        (r"  DraftStop stop = 3;\n", "", "deleted"),
        (r"DraftStop stop = 3;", "DraftStop stop = 5;", "stop"),
        (r"optional double min_probability = 5;", "optional float min_probability = 5;", "type"),
        (r"  rpc GetDraftLoad\([^;]*;\n", "", "GetDraftLoad"),
    ],
    ids=["field deleted", "field renumbered", "type changed", "call deleted"],
)
def test_breaking_finds_incompatible_changes(
    buf, copy: Path, pattern: str, replacement: str, complaint: str
) -> None:
    spoil(copy / "tandem/v1/draft.proto", pattern, replacement)
    done = buf("breaking", copy, "--against", PROTOS / "baseline.binpb")
    assert done.returncode == 100 and complaint in done.stdout, done.stdout + done.stderr


def test_adding_a_field_is_compatible(buf, copy: Path) -> None:
    last = "  Timing timing = 4;\n"
    spoil(copy / "tandem/v1/draft.proto", last, last + "  // New.\n  bool added = 99;\n")
    done = buf("breaking", copy, "--against", PROTOS / "baseline.binpb")
    assert done.returncode == 0, done.stdout + done.stderr
