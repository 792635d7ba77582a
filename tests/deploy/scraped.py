"""Real services with callers of every kind, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem import Client
from tests.cli.processes import service
from tests.deploy.monitoring import RULES

BINARY = shutil.which("prometheus")

#: Lengths of blocks, rules that adapt, rules that measure distances, and none.
POLICIES: Sequence[Any] = (
    {"stop": "fixed", "accept": "exact"},
    {"stop": "adasd", "accept": "adasd"},
    {"stop": "goodput", "accept": "coupled"},
    {"stop": "adaedl", "accept": "jsd", "threshold": 0.4},
    "off",
    "off",
)


@dataclass(frozen=True, slots=True)
class Services:
    """endpoint, url: of the orchestrator. metrics: HOST:PORT of each service's, by name."""

    endpoint: str
    url: str
    metrics: Mapping[str, str]

    def calls(self, *, max_tokens: int = 100) -> None:
        """Some completions at once, by each policy; and over HTTP, one that is refused among them."""
        with Client(self.endpoint, timeout=120) as client, ThreadPoolExecutor(len(POLICIES)) as pool:
            list(pool.map(lambda policy: _complete(client, policy, max_tokens), POLICIES))
        for tokens in (5, -1):
            body = json.dumps({"model": "target", "prompt": "Hello", "max_tokens": tokens}).encode()
            request = urllib.request.Request(
                f"{self.url}/v1/completions", body, headers={"content-type": "application/json"}
            )
            try:
                urllib.request.urlopen(request, timeout=60).read()
            except urllib.error.HTTPError as error:
                error.close()


@contextmanager
def services(models: Path, *, draft_sessions: int = 2) -> Iterator[Services]:
    """The three as processes. draft_sessions: that the draft takes; further ones it refuses."""
    ports = dict(zip(("target", "draft", "orchestrator", "http"), free_ports(4), strict=True))

    def flags(name: str) -> tuple[str, ...]:
        return "--metrics-port", str(ports[name])

    with ExitStack() as stack:
        model = ("--dtype", "float32", "--cache-bytes", "64MB")
        target = stack.enter_context(service("target_service", "--model", models / "target", *model, *flags("target")))
        draft = stack.enter_context(
            service(
                "draft_service", "--model", models / "draft", *model, *flags("draft"),
                "--max-sessions", str(draft_sessions),
            )
        )  # fmt: skip
        orchestrator = stack.enter_context(
            service(
                "orchestrator", "--target", f"127.0.0.1:{target}", "--draft", f"127.0.0.1:{draft}",
                "--tokenizer", models / "target", "--http-port", str(ports["http"]), *flags("orchestrator"),
            )
        )  # fmt: skip
        yield Services(
            f"127.0.0.1:{orchestrator}",
            f"http://127.0.0.1:{ports['http']}",
            {name: f"127.0.0.1:{ports[name]}" for name in ("orchestrator", "draft", "target")},
        )


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def is_ready(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=30).status == 200
        except OSError:  # it does not listen, or says not yet
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an instant query finds."""
        return self._get("query", query=expr)["result"]

    def query_range(self, expr: str, *, start: float, end: float, step: float) -> list[dict[str, Any]]:
        return self._get("query_range", query=expr, start=start, end=end, step=step)["result"]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> dict[str, str]:
        """Health of each job."""
        return {target["labels"]["job"]: target["health"] for target in self._get("targets")["activeTargets"]}

    def _get(self, path: str, **arguments: object) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error


@contextmanager
def prometheus(folder: Path, metrics: Mapping[str, str], *, every: str = "500ms") -> Iterator[Prometheus]:
    """Scrapes `metrics` as jobs of their names, with the rules of deploy/."""
    assert BINARY is not None
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in metrics.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    (port,) = free_ports(1)
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                BINARY, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            if running.is_ready() and set(running.targets().values()) == {"up"}:
                break
            time.sleep(0.2)
        yield running
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, all different."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            found.append(int(taken.getsockname()[1]))
        return found


def _complete(client: Client, policy: Any, max_tokens: int) -> None:
    client.complete(
        "user: how are you", max_tokens=max_tokens, temperature=1.0, ignore_end_tokens=True, speculation=policy
    )
