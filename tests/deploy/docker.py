"""Docker and Compose as a person calls them: one project that is gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.deploy.compose import ROOT, compose_command

#: Only against hanging; the first build fetches some gigabytes.
_SECONDS = 3600.0


class CommandError(AssertionError):
    """A command failed; what it said."""


def daemon_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None or compose_command() is None:
        return False
    try:
        done = subprocess.run([docker, "version"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Project:
    """The stack under a name of its own. folder: where its Compose files are, and nothing else."""

    def __init__(self, folder: Path, name: str, files: Sequence[str], settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.name = name
        command = compose_command()
        assert command is not None
        self._compose = [*command, "--project-name", name, *(part for file in files for part in ("--file", file))]
        self._environment = {**os.environ, **settings}

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self._run([*self._compose, *arguments], self._environment, check=check)

    def docker(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        return self._run(["docker", *arguments], {**os.environ, "DOCKER_BUILDKIT": "1"}, stdin=stdin, check=check)

    def fails(self, *arguments: str) -> str:
        """What a `docker` that must not succeed says."""
        try:
            self.docker(*arguments)
        except CommandError as error:
            return str(error)
        raise AssertionError(f"docker {' '.join(arguments)} succeeded")

    def _run(self, command: list[str], environment: Mapping[str, str], *, stdin: str = "", check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=environment, input=stdin, capture_output=True, text=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise CommandError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", service).split()

    def container(self, service: str) -> str:
        (found,) = self.containers(service)
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        facts: dict[str, Any] = found
        return facts

    def port(self, service: str, port: int) -> str:
        """HOST:PORT on this machine."""
        return self.compose("port", service, str(port)).strip()

    def wait_until_healthy(self, service: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            states = [self.inspect(each)["State"] for each in self.containers(service)]
            if states and all(state.get("Health", {}).get("Status") == "healthy" for state in states):
                return
            assert time.monotonic() < deadline, f"{service} is not healthy after {seconds:g} s: {states}"
            time.sleep(0.2)


def build(project: Project, target: str, image: str, options: Sequence[str]) -> float:
    """Builds one image; returns the seconds that it took."""
    began = time.monotonic()
    dockerfile = str(ROOT / "deploy/images/Dockerfile")
    project.docker("build", "--file", dockerfile, "--target", target, "--tag", image, *options, str(ROOT))
    return time.monotonic() - began
