"""What a container may do and how it ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.deploy.common import IMAGES, REGISTRY, SERVICES, eventually, say
from tests.deploy.docker import Project

_INSIDE = Path(__file__).with_name("inside.py").read_text()
_HOLD = "import fcntl, time; file = open('/run/tandem/try', 'w'); fcntl.flock(file, fcntl.LOCK_EX); time.sleep(4)"
_TRY = "import fcntl; file = open('/run/tandem/try', 'a'); fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"


def check_images(project: Project) -> None:
    """By themselves, without what Compose adds."""
    for target in IMAGES:
        flags = ["--rm", "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL"]
        image = f"{REGISTRY}tandem-{target}"
        found = json.loads(project.docker("run", *flags, "--entrypoint", "python", image, "-", stdin=_INSIDE))
        assert (found["uid"], found["gid"], found["capabilities"]) == (65532, 65532, 0), found
        assert found["writes"] == [] and found["compilers"] == [], found
        assert ("pip" in found["packages"]) is (target == "pull"), found
        assert ("torch" in found["packages"]) is (target != "orchestrator"), found
        assert bool(found["weights"]) is (target == "pull"), found
        has = " and ".join(found["packages"]) or "neither torch nor pip"
        say(f"tandem-{target}: user 65532, writes nowhere, no compiler, weights: {found['weights'] or 'none'}; {has}")


def check_containers(project: Project) -> None:
    for service in SERVICES:
        facts = project.inspect(container := project.container(service))
        found = json.loads(project.docker("exec", "--interactive", container, "python", "-", stdin=_INSIDE))
        assert (found["uid"], found["capabilities"], found["no_new_privileges"]) == (65532, 0, True), found
        assert found["writes"] == ["/tmp"] and found["weights"] == [], found
        networks = json.loads(project.docker("network", "inspect", *facts["NetworkSettings"]["Networks"]))
        internal = all(network["Internal"] for network in networks)
        assert internal is (service != "orchestrator"), networks
        host = facts["HostConfig"]
        assert host["ReadonlyRootfs"] and host["Memory"] and host["NanoCpus"] and host["PidsLimit"], host
        published = [each for each in facts["NetworkSettings"]["Ports"].values() if each]
        assert bool(published) is (service == "orchestrator")
        assert all(port["HostIp"] == "127.0.0.1" for ports in published for port in ports)
        ways = "internal network alone, no port published" if internal else "publishes ports on 127.0.0.1"
        memory = f"{host['Memory'] >> 20} MiB"
        say(f"{service}: user 65532, no capabilities, writes to /tmp alone, {ways}, at most {memory}")
    say("memory in use: " + ", ".join(used(project, service) for service in SERVICES))


def used(project: Project, service: str) -> str:
    stats = project.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", project.container(service))
    return f"{service} {stats.split(' / ')[0].strip()}"


def check_turns(project: Project) -> None:
    """Draft and target have one file for their turns, and a lock of one is seen by the other."""
    draft, target = project.container("draft"), project.container("target")
    numbers = {project.docker("exec", each, "stat", "--format=%d:%i", "/run/tandem/turns") for each in (draft, target)}
    assert len(numbers) == 1, numbers
    project.docker("exec", "--detach", target, "python", "-c", _HOLD)

    def held() -> None:
        assert "BlockingIOError" in project.fails("exec", draft, "python", "-c", _TRY)

    eventually(held)
    eventually(lambda: project.docker("exec", draft, "python", "-c", _TRY))
    say("draft and target lock one file: they take turns on the cores that they share")


def check_restart_policy(project: Project) -> None:
    container = project.container("draft")
    before = project.inspect(container)["State"]["StartedAt"]
    project.docker("exec", container, "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")

    def restarted() -> None:
        assert project.inspect(container)["State"]["StartedAt"] != before

    eventually(restarted)
    project.wait_until_healthy("draft")
    count = project.inspect(container)["RestartCount"]
    assert count == 1
    say("the draft ended by itself, was started again, and is healthy")


def check_stop(project: Project) -> None:
    began = time.monotonic()
    running = [each for service in SERVICES for each in project.compose("ps", "--quiet", service).split()]
    project.compose("stop")
    seconds = time.monotonic() - began
    codes = [project.inspect(container)["State"]["ExitCode"] for container in running]
    assert codes == [0] * len(running), codes
    say(f"stopped in {seconds:.1f} s: every service got SIGTERM and ended with 0")
