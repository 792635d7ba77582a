"""`python -m orchestrator` and `tandem up` with HTTP, as real processes: started, drained, never left behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.processes import SECONDS, Running, environment, refusal, running, service, tandem
from tests.gateway.serving import TOKENIZER
from tests.support.tiny import tiny_llama

ENDLESS = {"model": "target", "prompt": "Hi", "stream": True, "max_tokens": 30_000, "ignore_eos": True}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("http") / "target"
    tiny_llama(5, vocabulary=257, context=32768).model.save_pretrained(folder)
    TOKENIZER._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return folder


@pytest.fixture(scope="session")
def target(model: Path) -> Iterator[str]:
    with service("target_service", "--model", model, "--dtype", "float32") as port:
        yield f"127.0.0.1:{port}"


class Orchestrator:
    """One process; `url` is where it serves HTTP."""

    def __init__(self, *flags: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "--port", "0", *flags],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True,
        )  # fmt: skip
        self._timer = threading.Timer(SECONDS, self.process.kill)
        self._timer.start()
        self.errors = ""
        self.url = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
                break

    def end(self) -> int:
        _, rest = self.process.communicate(timeout=SECONDS)
        self._timer.cancel()
        self.errors += rest
        assert "Traceback" not in self.errors, self.errors
        return self.process.returncode


@contextmanager
def orchestrator(model: Path, target: str, *flags: str) -> Iterator[Orchestrator]:
    common = ["--tokenizer", str(model), "--target", target, "--draft", "none", "--http-port", "0"]
    started = Orchestrator(*common, *flags)
    try:
        yield started
    finally:
        started.process.kill()
        started._timer.cancel()
        started.process.communicate()


@contextmanager
def streaming(url: str, body: dict[str, Any]) -> Iterator[Iterator[str]]:
    """The lines of an answer whose first has come."""
    with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=SECONDS) as answer:
        lines = answer.iter_lines()
        assert answer.status_code == 200 and next(lines).startswith("data: ")
        yield lines


def test_sigterm_lets_open_streams_end_and_takes_no_more(model: Path, target: str) -> None:
    with (
        orchestrator(model, target, "--grace-seconds", "60") as service,
        streaming(service.url, {**ENDLESS, "max_tokens": 1500}) as lines,
    ):
        service.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                answer = httpx2.get(f"{service.url}/healthz")
            except httpx2.ConnectError:
                break
            if answer.status_code != 503:  # the signal may just be on its way
                time.sleep(0.01)
        else:
            raise AssertionError("still takes connections")
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and len(rest) > 300
        assert service.end() == 0


def test_what_outlasts_the_grace_ends_with_a_word(model: Path, target: str) -> None:
    with (
        orchestrator(model, target, "--grace-seconds", "0.3") as service,
        streaming(service.url, ENDLESS) as lines,
    ):
        began = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        *_, last = (line for line in lines if line)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert service.end() == 0
        assert time.monotonic() - began < 20  # all of it would take minutes


def test_a_second_signal_ends_the_drain(model: Path, target: str) -> None:
    with (
        orchestrator(model, target, "--grace-seconds", "60") as service,
        streaming(service.url, ENDLESS) as lines,
    ):
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        next(lines)
        service.process.send_signal(signal.SIGTERM)
        assert "shutting_down" in [line for line in lines if line][-1]
        assert service.end() == 0


def test_one_who_does_not_read_is_not_waited_for(model: Path, target: str) -> None:
    with orchestrator(model, target, "--grace-seconds", "0.3") as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            content = json.dumps({**ENDLESS, "logprobs": 20}).encode()
            head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            connection.recv(100)
            time.sleep(2)  # its buffers are full
            service.process.send_signal(signal.SIGTERM)
            assert service.end() == 0


def test_a_taken_port_is_one_line(model: Path, target: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with orchestrator(model, target, "--http-port", str(port)) as service:
            assert service.end() == 2
    advice = "choose another with --http-port (0 takes a free one, none serves no HTTP)"
    assert service.errors == f"orchestrator: port {port} on 127.0.0.1 is taken; {advice}\n"


@pytest.mark.parametrize("port", ["x", "65536"])
def test_what_is_no_port_is_named(port: str) -> None:
    assert "--http-port" in refusal(tandem("up", f"--http-port={port}"))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", f"--http-port={port}"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2 and "--http-port (TANDEM_ORCHESTRATOR_HTTP_PORT)" in done.stderr


def up(model: Path, *flags: str) -> Any:
    free = ["--port", "0", "--draft-port", "0", "--target-port", "0"]
    return running("up", *free, *flags, "--target-model", model, "--draft-model", "none")


def end(command: Running) -> None:
    command.process.send_signal(signal.SIGTERM)
    assert command.end() == 143
    assert command.offspring() == {} and "Traceback" not in command.errors


def test_up_serves_http_and_says_where(model: Path) -> None:
    with up(model, "--http-port", "0") as command:
        command.read_until("Tandem is up")
        found = re.search(r"HTTP (\S+)/v1 ", command.read_until("HTTP "))
        assert found is not None
        body = {"model": "target", "prompt": "Hi", "max_tokens": 3}
        answer = httpx2.post(f"{found[1]}/v1/completions", json=body, timeout=SECONDS)
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] <= 3
        end(command)
