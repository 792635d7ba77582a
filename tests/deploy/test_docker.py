"""The stack in Docker, where there is a daemon."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tests.deploy.compose import ROOT
from tests.deploy.docker import daemon_answers


def test_the_stack_is_built_and_serves_and_outlives_its_draft() -> None:
    """TANDEM_DOCKER_STACK: flags of the script."""
    if not daemon_answers():
        pytest.skip("no Docker daemon answers, or Docker Compose is not installed")
    flags = shlex.split(os.environ.get("TANDEM_DOCKER_STACK", ""))
    command = [sys.executable, "-m", "tests.deploy.docker_stack", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
