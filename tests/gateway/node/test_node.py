"""The official npm package, where node is there and the package can be had."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.serving import gateway

CLIENT = Path(__file__).parent / "client.mjs"
SECONDS = 20


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not there")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", "openai@7"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's openai was not to be had in time")
    if done.returncode:
        pytest.skip(f"npm's openai cannot be had: {done.stderr.strip()[-200:]}")
    shutil.copy(CLIENT, folder)
    return folder


async def test_the_npm_package_works_as_it_comes(package: Path) -> None:
    async with gateway() as served:
        process = await asyncio.create_subprocess_exec(
            "node", CLIENT.name, served.url, cwd=package, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors.decode()
        found: dict[str, Any] = json.loads(output)
        expected = await served.chat(max_tokens=20, seed=7)
        legacy = await served.text(["Hi", "Ho"], max_tokens=5, seed=7, speculation="off")
    assert found["models"][:2] == ["tiny", "tiny:off"]
    assert found["text"] == found["streamed"] == expected["choices"][0]["message"]["content"]
    assert found["logprobs"] == found["usage"]["completion_tokens"]
    assert found["streamedUsage"]["completion_tokens"] == found["usage"]["completion_tokens"]
    assert found["metrics"]["speculation"]["accept_rule"] == "coupled"
    assert found["legacy"] == [choice["text"] for choice in legacy["choices"]]
    assert isinstance(found["parsed"]["yes"], bool)
    assert found["error"] == {
        "kind": "BadRequestError", "status": 400, "param": "temperature", "code": "invalid_field",
    }  # fmt: skip
