"""The services as they are started: three processes with every flag on, and what is left of each."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.v1 import completion_pb2, completion_pb2_grpc
from tests.cli.processes import SECONDS, environment
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy
from tests.telemetry.reading import Reading
from tests.telemetry.receiver import Receiver, receiving
from tests.telemetry.test_exposition import get

LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
HTTP = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
METRICS = re.compile(r"metrics on http://127\.0\.0\.1:(\d+)/metrics")


class Service:
    """One process, and the lines that it has written; all of them have to be JSON."""

    def __init__(self, module: str, *flags: str | Path) -> None:
        self.module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--port", "0", "--log-format", "json", *map(str, flags)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True,
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []

    def read_until(self, pattern: re.Pattern[str]) -> int:
        """The number that it matches."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            self.lines.append(json.loads(text))
            if found := pattern.search(self.lines[-1]["event"]):
                return int(found[1])
        raise AssertionError(f"{self.module} ended: {self.lines}")

    def end(self) -> None:
        self.process.terminate()
        _, rest = self.process.communicate(timeout=SECONDS)
        self.lines += [json.loads(text) for text in rest.splitlines()]
        assert self.process.returncode == 0, self.lines

    def about(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("request_id") == name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telemetry") / "tiny"
    tiny_llama(5, vocabulary=257).model.save_pretrained(folder)
    byte_tokenizer()._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@asynccontextmanager
async def service(module: str, *flags: str | Path) -> AsyncGenerator[tuple[Service, int, int]]:
    """It, its port, and that of its metrics. Killed on the way out if it is still there."""
    started = Service(module, "--metrics-port", "0", "--log-level", "debug", *flags)
    try:
        metrics = await asyncio.to_thread(started.read_until, METRICS)
        yield started, await asyncio.to_thread(started.read_until, LISTENING), metrics
    finally:
        started.process.kill()
        started.process.communicate()


async def test_three_processes_tell_all_of_one_request(model: Path) -> None:
    async with receiving() as receiver:
        common = ["--otlp-endpoint", receiver.endpoint]
        models = [*common, "--model", model, "--dtype", "float32", "--threads", "1"]
        async with service("target_service", *models) as (target, target_port, target_metrics):
            async with service("draft_service", *models) as (draft, draft_port, draft_metrics):
                flags = ["--target", f"127.0.0.1:{target_port}", "--draft", f"127.0.0.1:{draft_port}"]
                flags += ["--tokenizer", model, "--http-port", "0", *common]
                async with service("orchestrator", *flags) as (orchestrator, port, metrics):
                    http = await asyncio.to_thread(orchestrator.read_until, HTTP)
                    await ask(port)
                    await check_metrics(metrics, draft_metrics, target_metrics, http)
                    await asyncio.to_thread(orchestrator.end)
                await asyncio.to_thread(draft.end)
            await asyncio.to_thread(target.end)
        check_lines(orchestrator, draft, target)
        check_spans(receiver)


async def ask(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        request = completion_pb2.CompleteRequest(
            text="zebra", max_tokens=12, request_id="mine", speculation=policy("fixed"), ignore_end_tokens=True
        )
        answer = await stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=SECONDS)
    assert len(answer.token_ids) == 12


async def check_metrics(orchestrator: int, draft: int, target: int, http: int) -> None:
    found = {}
    for name, port in (("orchestrator", orchestrator), ("draft", draft), ("target", target)):
        status, _, body = await asyncio.to_thread(get, port)
        assert status == 200
        found[name] = Reading(body)
        assert found[name]("process_resident_memory_bytes") > 1e7
        assert found[name]("tandem_build_info", service=name) == 1
    assert found["orchestrator"]("tandem_completion_tokens_total") == 12
    assert found["orchestrator"]("tandem_verify_steps_total", stop_rule="fixed") > 0
    assert found["draft"]("tandem_engine_step_seconds_count", service="draft") > 0
    assert found["target"]("tandem_engine_step_seconds_count", service="target") > 0
    assert (await asyncio.to_thread(get, http))[0] == 404  # they have a port of their own


def check_lines(orchestrator: Service, draft: Service, target: Service) -> None:
    for each, name in ((orchestrator, "orchestrator"), (draft, "draft"), (target, "target")):
        assert {line["service"] for line in each.lines} == {name}
        assert not any("zebra" in json.dumps(line) for line in each.lines)
        assert any(line["event"].endswith("stopped") for line in each.lines)
        assert each.about("mine"), each.lines
    assert [line["event"] for line in orchestrator.about("mine")] == ["completed"]
    assert [line["event"] for line in draft.about("mine")] == ["a session ended"]


def check_spans(receiver: Receiver) -> None:
    """What was left when a service ended has been sent, too."""
    assert len({span.trace for span in receiver.spans}) == 1
    assert {span.name for span in receiver.named("tandem.request")} == {"tandem.request"}
    (completion,) = receiver.named("tandem.completion")
    for side in ("draft", "target"):
        (stream,) = receiver.named(f"tandem.{side}.stream")
        assert (stream.parent, stream.service) == (completion.id, f"tandem-{side}")
    assert receiver.named("tandem.round") and receiver.named("tandem.target.block")


@pytest.mark.parametrize("module", ["orchestrator", "draft_service", "target_service"])
def test_a_taken_port_for_metrics_ends_a_service_before_it_loads_anything(module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", module, "--port", "0", "--metrics-port", port],
            capture_output=True, text=True, timeout=SECONDS, env=environment(), check=False,
        )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"{module}: port {port} on 127.0.0.1 is taken")
    assert "--metrics-port" in line
