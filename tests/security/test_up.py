"""`tandem up` with a file of keys: it starts, though it has no key itself, and asks its callers for one."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import httpx2

from tests.cli.processes import SECONDS, refusal, running, tandem
from tests.security.serving import TOKENIZER, KeyRing
from tests.support.tiny import tiny_llama


def test_services_of_one_command_ask_for_keys(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_llama(5, vocabulary=257).model.save_pretrained(folder)
    TOKENIZER._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    ring = KeyRing(tmp_path)
    key = ring.add("alice")
    ports = [part for name in ("port", "draft-port", "target-port", "http-port") for part in (f"--{name}", "0")]
    models = ["--target-model", folder, "--draft-model", "none"]
    with running("up", *ports, *models, "--api-keys", ring.file) as command:
        endpoint = command.read_until("Tandem is up").split(" at ")[1].split()[0]
        found = re.search(r"HTTP (\S+)/v1 ", command.read_until("HTTP "))
        assert found is not None
        body = {"model": "tiny", "prompt": "Hi", "max_tokens": 3}
        headers = {"authorization": f"Bearer {key}"}
        for given, status in ((headers, 200), ({}, 401)):
            answer = httpx2.post(f"{found[1]}/v1/completions", json=body, headers=given, timeout=SECONDS)
            assert answer.status_code == status
        words = ["complete", "Hi", "--raw", "--max-tokens", "3", "--endpoint", endpoint]
        assert tandem(*words, variables={"TANDEM_API_KEY": key}).returncode == 0
        assert "API key is needed" in refusal(tandem(*words))
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 143 and key not in command.errors
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    # Before a model is loaded for nothing.
    assert f"--api-keys: {broken}: Invalid JSON" in refusal(tandem("up", *ports, *models, "--api-keys", broken))
