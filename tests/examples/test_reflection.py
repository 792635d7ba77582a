"""What the documentation shows of use without a program works as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

from tests.examples.conftest import EXAMPLES, needs, run
from tests.support.tokens import ids
from tests.support.trio import Trio

BUF = Path(sys.executable).parent / "buf"


def commands() -> list[list[str]]:
    """Those of the page, word by word."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


async def test_every_command_of_the_page_works(services: Trio) -> None:
    needs(str(BUF))
    outputs = []
    for program, *words in commands():
        assert program == "buf"
        words = [word.replace("127.0.0.1:7000", services.orchestrator.address) for word in words]
        done = await asyncio.to_thread(run, BUF, *words)
        assert done.returncode == 0, (words, done.stderr.decode())
        outputs.append(done.stdout.decode())
    methods, stream, once, models, health = outputs
    assert "tandem.v1.CompletionService/Complete" in methods.split()
    pieces = [json.loads(piece) for piece in re.split(r"(?<=^})\n", stream, flags=re.MULTILINE) if piece]
    assert pieces[-1]["finish"]["usage"]["completionTokens"] == 8
    alone = await services.complete(ids("One two"), max_tokens=8)
    assert json.loads(once)["text"] == alone.text
    assert json.loads(models)["target"]["modelId"] == "tiny" and json.loads(health) == {"status": "SERVING"}


async def test_an_error_is_shown_with_its_details(services: Trio) -> None:
    needs(str(BUF))
    url = f"http://{services.orchestrator.address}/tandem.v1.CompletionService/Complete"
    flags = ["--protocol", "grpc", "--http2-prior-knowledge", "-d", '{"text": "x", "max_tokens": 0}']
    done = await asyncio.to_thread(run, BUF, "curl", *flags, url)
    said = json.loads(done.stderr)
    assert done.returncode != 0 and said["code"] == "invalid_argument" and "max_tokens" in said["message"]
    assert [detail["type"] for detail in said["details"]] == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]
