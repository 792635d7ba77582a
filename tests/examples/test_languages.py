"""Each example, built as its folder says and run against real services, streams, meets an error and cancels."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, ROOT, make, needs, run, until_idle
from tests.support.tokens import ids
from tests.support.trio import Trio

PROMPT = "To be or not to be"
TOKENS = 40
# What every example says after the text; languages have their own names for gRPC's codes.
FINISH = re.compile(r"finish: (?:FINISH_REASON_LENGTH|length), 40 tokens, (\d+) of (\d+) drafted ones accepted")
REFUSED = re.compile(r"refused: (?:INVALID_ARGUMENT|InvalidArgument), reason INVALID_FIELD, field max_tokens")
CANCELLED = re.compile(r"cancelled: (?:(?:CANCELLED|Canceled) )?after (\d+) tokens")


async def check(services: Trio, *command: str | Path, folder: Path = ROOT) -> None:
    """Whether a program says what the services say, and leaves nothing behind."""
    alone = await services.complete(ids(PROMPT), max_tokens=TOKENS)
    done = await asyncio.to_thread(run, *command, services.orchestrator.address, PROMPT, str(TOKENS), folder=folder)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    text, *rest = done.stdout.decode().rstrip("\n").rsplit("\n", 3)
    assert text == alone.text
    finish, refused, cancelled = map(re.fullmatch, (FINISH, REFUSED, CANCELLED), rest)
    assert finish and refused and cancelled, rest
    accepted, drafted = map(int, finish.groups())
    assert 0 < accepted <= drafted and 8 <= int(cancelled[1]) < 1000
    await until_idle(services)


async def test_python(services: Trio) -> None:
    await check(services, sys.executable, EXAMPLES / "python/complete.py")


async def test_the_page_on_python_shows_code_that_runs(services: Trio) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (EXAMPLES / "python/README.md").read_text(), re.DOTALL)
    code = "import tandem\n" + code.replace("127.0.0.1:7000", services.orchestrator.address)
    done = await asyncio.to_thread(run, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr.decode()
    assert re.fullmatch(r"(red|green) \d+ -\d+\.\d+\n", done.stdout.decode())


async def test_node(services: Trio, tmp_path: Path) -> None:
    needs("node", "npm")
    folder = tmp_path / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    flags = ["--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=15000"]
    installed = await asyncio.to_thread(run, "npm", "install", *flags, folder=folder)
    if installed.returncode != 0:
        pytest.skip(f"npm reaches no registry: {installed.stderr.decode().splitlines()[:1]}")
    await check(services, "env", f"PROTOS={ROOT / 'protos'}", "node", "complete.js", folder=folder)


async def test_go(services: Trio, tmp_path: Path) -> None:
    packages = tuple(f"/usr/share/gocode/src/google.golang.org/{name}" for name in ("grpc", "protobuf"))
    needs("make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc", files=packages)
    await asyncio.to_thread(make, "go", tmp_path)
    await check(services, tmp_path / "complete")


async def test_cpp(services: Trio, tmp_path: Path) -> None:
    needs("make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")
    await asyncio.to_thread(make, "cpp", tmp_path)
    await check(services, tmp_path / "complete")


async def test_java(services: Trio, tmp_path: Path) -> None:
    jars = ("grpc-core", "grpc-netty", "netty-transport", "guava", "perfmark-api", "protobuf")
    files = tuple(f"/usr/share/java/{name}.jar" for name in jars)
    needs("make", "java", "javac", "protoc", "grpc_java_plugin", files=files)
    await asyncio.to_thread(make, "java", tmp_path)
    await check(services, tmp_path / "complete")
