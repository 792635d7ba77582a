"""Rules of the house that a machine can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_ruff_finds_nothing() -> None:
    done = run("-m", "ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_nothing() -> None:
    done = run("-m", "mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rpc_and_settings_import_no_torch() -> None:
    modules = "tandem.log, tandem.settings, tandem.rpc.server, tandem.rpc.channels, tandem.rpc.handshake"
    heavy = "{'torch', 'transformers', 'numpy'}"
    done = run("-c", f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
