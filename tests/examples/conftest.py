"""The three services behind a port, with small models, and what it takes to build an example beside them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import google.rpc
import pytest

from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import Trio, trio

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: The folder that has google/rpc/*.proto.
GOOGLEAPIS = Path(next(iter(google.rpc.__path__))).parents[1]
TEMPLATE = "{% for message in messages %}{{ message.content }};{% endfor %}"
SECONDS = 300.0  # only against hanging


@pytest.fixture
async def services() -> AsyncIterator[Trio]:
    # Long enough that the completion which an example cancels would outlast it.
    target = tiny_llama(5, vocabulary=257, context=32768)
    draft = tiny_llama(5, vocabulary=257, noise=0.1, context=32768)
    async with trio(target, draft, byte_tokenizer(257, template=TEMPLATE, ends=(END,))) as running:
        yield running


def needs(*programs: str, files: tuple[str, ...] = ()) -> None:
    """Skips the test where something is not there, by its name."""
    missing = [program for program in programs if shutil.which(program) is None]
    missing += [file for file in files if not Path(file).exists()]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(
    *command: str | Path, folder: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end."""
    ours = {"LC_ALL": "C.UTF-8", "GOOGLEAPIS": str(GOOGLEAPIS), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **ours, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def make(example: str, build: Path, *variables: str) -> None:
    """Builds an example with its Makefile into `build`."""
    done = run("make", "-j2", f"BUILD={build}", f"GOOGLEAPIS={GOOGLEAPIS}", *variables, folder=EXAMPLES / example)
    assert done.returncode == 0, done.stdout.decode()[-2000:] + done.stderr.decode()[-4000:]


async def until_idle(services: Trio) -> None:
    """Waits until no sequence is left in the target; fails after seconds."""
    for _ in range(500):
        if services.target_engine.load().sequences == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("what was cancelled goes on")
