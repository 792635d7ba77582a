"""The services as processes of this machine: started together, stopped together."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tandem.cli.errors import CliError
from tandem.cli.signals import signals_wait
from tandem.drafters import EARLY_EXIT, drafter_parts
from tandem.keys import KeyFileError, read_keys
from tandem.rpc.server import ListenError, PortTakenError, check_listen

_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What to start. Ports: 0 takes a free one. http_port: None serves no HTTP. draft_model: None starts no draft
    service. drafter: what drafts, see `tandem.drafters`; None for what draft_model says. middle_model: None starts no
    target service between draft and target.

    weights: of both models, see `load_model`; draft_weights: of the draft's, where they are others. tokenizer: model
    whose tokenizer is used, where it is not the target's. api_keys: file of those that callers are asked for; None for
    nobody. verify_budget: candidates that a step of the target verifies, as it takes them; 0 for all.
    """

    host: str = "127.0.0.1"
    port: int = 0
    draft_port: int = 0
    target_port: int = 0
    http_port: int | None = None
    target_model: str = "embedded:smollm2"
    target_revision: str | None = None
    draft_model: str | None = "embedded:smollm2-draft"
    draft_revision: str | None = None
    drafter: str | None = None
    dtype: str = "bfloat16"
    weights: str = "auto"
    draft_weights: str | None = None
    threads: int | None = None
    log_level: str = "info"
    tokenizer: str | None = None
    api_keys: Path | None = None
    middle_model: str | None = None
    middle_port: int = 0
    verify_budget: str = "0"


class Service:
    """One child process that says its port once it listens, and stops when this process is gone."""

    def __init__(self, module: str, flags: Sequence[str], *, log: Path | None, label: str = "") -> None:
        """log: file for its stderr; None leaves it on this process's. label: what it is told by from others of its
        module."""
        self.label = label or module
        self._log = log
        self.port = 0  # until it listens
        self.http_port = 0  # of one that has one
        # Its end tells the port; ours, by being closed, that this process is gone, even by SIGKILL.
        self._lifeline, theirs = socket.socketpair()
        command = [sys.executable, "-m", module, *flags, "--ready-fd", str(theirs.fileno())]
        stderr = log.open("wb") if log is not None else None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal reaches a whole process group; the services are stopped in order instead.
                start_new_session=True,
            )
        finally:
            theirs.close()
            if stderr is not None:
                stderr.close()

    def fileno(self) -> int:
        """For `select`: readable when it listens or has ended."""
        return self._lifeline.fileno()

    def read_port(self) -> None:
        """Sets `port`. Raises CliError where the process has ended instead."""
        self.port = self._read_line()

    def read_http_port(self) -> None:
        """Sets `http_port`, which the orchestrator says after its port. Raises CliError where it has ended instead."""
        self.http_port = self._read_line()

    def _read_line(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            # A byte at a time: what follows is for the next reader.
            byte = self._lifeline.recv(1)
            if not byte:
                raise CliError(self._why_it_ended())
            line += byte
        return int(line)

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        lines = self._log.read_text(errors="replace").splitlines() if self._log is not None else []
        lines = [line for line in lines if line.strip()]
        reason = lines[-1] if lines else f"it ended with code {code}; its log is above"
        return f"the {self.name} did not start: {reason}"

    @property
    def name(self) -> str:
        return self.label.replace("_", " ")

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ending(self) -> str | None:
        """How it ended, as `signal 9` or `exit code 1`; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def terminate(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lifeline.close()


class LocalServices:
    """The services. As a context manager it stops them on every way out.

    endpoint: HOST:PORT of the orchestrator. url: of its HTTP face; empty where there is none.
    """

    def __init__(self, layout: Layout, *, show_logs: bool, say: Callable[[str], None] = lambda text: None) -> None:
        """show_logs: leave logs on stderr; otherwise they are kept until the end and their last line explains a
        failed start. say: told what is being waited for."""
        self._layout = layout
        self._show_logs = show_logs
        self._say = say
        self._services: list[Service] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.endpoint = ""
        self.url = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="tandem-")
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def ports(self) -> dict[str, int]:
        return {service.label: service.port for service in self._services}

    @property
    def process_ids(self) -> list[int]:
        return [service.process_id for service in self._services]

    def wait(self) -> str:
        """Blocks until one of the services ends by itself; returns which and how."""
        while True:
            for service in self._services:
                if ending := service.ending():
                    return f"the {service.name} ended by itself ({ending})"
            time.sleep(0.2)

    def _start(self) -> None:
        layout = self._layout
        _check_drafter(layout)
        _check_ports(layout)
        if layout.api_keys is not None:
            try:
                read_keys(layout.api_keys)
            except KeyFileError as error:
                raise CliError(f"--api-keys: {error}") from error
        common = ["--host", layout.host, "--log-level", layout.log_level]
        model_flags = ["--dtype", layout.dtype]
        if layout.threads is not None:
            model_flags += ["--threads", str(layout.threads)]
        models = 1 + (layout.draft_model is not None) + (layout.middle_model is not None)
        if models > 1 and _share_cores(layout.threads, models):
            assert self._folder is not None
            model_flags += ["--turns", f"{self._folder.name}/turns"]
        self._say("loading the models")
        target = self._spawn(
            "target_service",
            [*common, *model_flags, "--weights", layout.weights, "--port", str(layout.target_port)]
            + ["--verify-budget", layout.verify_budget]
            + _model(layout.target_model, layout.target_revision),
        )
        draft = None
        if layout.draft_model is not None:
            draft = self._spawn(
                "draft_service",
                [*common, *model_flags, "--weights", layout.draft_weights or layout.weights]
                + ["--port", str(layout.draft_port)]
                + ([] if layout.drafter is None else ["--drafter", layout.drafter])
                + _draft(layout),
            )
        middle = None
        if layout.middle_model is not None:
            middle = self._spawn(
                "target_service",
                [*common, *model_flags, "--weights", layout.weights, "--port", str(layout.middle_port)]
                + _model(layout.middle_model, None),
                label="middle_service",
            )
        self._wait_until_ready()
        self._say("starting the orchestrator")
        reach = "127.0.0.1" if layout.host in ("0.0.0.0", "::") else layout.host
        reach = f"[{reach}]" if ":" in reach else reach
        http_port = "none" if layout.http_port is None else str(layout.http_port)
        flags = [*common, "--port", str(layout.port), "--http-port", http_port, "--target", f"{reach}:{target.port}"]
        flags += ["--draft", f"{reach}:{draft.port}" if draft is not None else "none"]
        flags += ["--middle", f"{reach}:{middle.port}" if middle is not None else "none"]
        flags += ["--tokenizer", layout.tokenizer or layout.target_model]
        if layout.target_revision is not None and layout.tokenizer is None:
            flags += ["--tokenizer-revision", layout.target_revision]
        if layout.api_keys is not None:
            flags += ["--api-keys", str(layout.api_keys)]
        orchestrator = self._spawn("orchestrator", flags)
        self._wait_until_ready()
        self.endpoint = f"{reach}:{orchestrator.port}"
        if layout.http_port is not None:
            orchestrator.read_http_port()
            self.url = f"http://{reach}:{orchestrator.http_port}"

    def _wait_until_ready(self) -> None:
        """Until all that were started listen. Raises CliError for the first that ends instead."""
        while waiting := [service for service in self._services if not service.port]:
            for service in select.select(waiting, [], [])[0]:
                service.read_port()

    def _spawn(self, module: str, flags: list[str], label: str = "") -> Service:
        assert self._folder is not None
        log = None if self._show_logs else Path(self._folder.name) / f"{label or module}.log"
        # A signal between the start of a process and the note of it would leave it running.
        with signals_wait():
            service = Service(module, flags, log=log, label=label)
            self._services.append(service)
        return service

    def _stop(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        # Ctrl-C again is passed on, which ends what is left of requests at once; it does not end this wait.
        with signals_wait(meanwhile=self._terminate):
            self._terminate()
            for service in reversed(self._services):
                service.wait(deadline - time.monotonic())
            self._services.clear()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _terminate(self) -> None:
        # The orchestrator first: it stops sending work before those that do it go away.
        for service in reversed(self._services):
            service.terminate()


def _check_drafter(layout: Layout) -> None:
    """Raises CliError."""
    if layout.draft_model is None and layout.drafter is not None:
        raise CliError("--drafter: no draft service is started with --draft-model none")
    try:
        drafter_parts(layout.drafter, layout.draft_model or "")
    except ValueError as error:
        raise CliError(f"--drafter: {error}") from error


def _check_ports(layout: Layout) -> None:
    """Before models are loaded for nothing. Raises CliError naming the flag."""
    ports = {"--port": layout.port, "--target-port": layout.target_port}
    if layout.draft_model is not None:
        ports["--draft-port"] = layout.draft_port
    if layout.middle_model is not None:
        ports["--middle-port"] = layout.middle_port
    if layout.http_port is not None:
        ports["--http-port"] = layout.http_port
    for flag, port in ports.items():
        try:
            check_listen(layout.host, port)
        except PortTakenError as error:
            taken = f"port {port} on {layout.host} is taken"
            raise CliError(f"{taken}; choose another with {flag} (0 takes a free one)") from error
        except ListenError as error:
            raise CliError(str(error)) from error


def _share_cores(threads: int | None, models: int) -> bool:
    """Whether so many models compute on the same cores, if they compute on a CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads is None or models * threads > cores


def _draft(layout: Layout) -> list[str]:
    """What the draft service loads, if it loads anything."""
    if EARLY_EXIT in drafter_parts(layout.drafter, layout.draft_model or ""):
        return _model(layout.target_model, layout.target_revision)
    assert layout.draft_model is not None
    return _model(layout.draft_model, layout.draft_revision) + _for_target(layout)


def _for_target(layout: Layout) -> list[str]:
    """Of use where the draft is of another family; where it is not, the draft service finds that out."""
    flags = ["--for-target", layout.target_model]
    return flags if layout.target_revision is None else [*flags, "--for-target-revision", layout.target_revision]


def _model(name: str, revision: str | None) -> list[str]:
    return ["--model", name] if revision is None else ["--model", name, "--revision", revision]
