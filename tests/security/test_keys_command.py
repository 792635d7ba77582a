"""`tandem keys`: make, list and revoke, and what it says where it cannot."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import pytest

from tandem.keys import digest_of, read_keys
from tests.cli.processes import refusal, run, tandem

WIDE = {"COLUMNS": "400"}


def test_a_key_is_made_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    flags = ["--concurrent", "4", "--tokens-per-minute", "6000", "--max-tokens", "512", "--days", "30"]
    done = tandem("keys", "new", "--file", file, "--id", "alice", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    key = done.stdout.strip()
    assert re.fullmatch(r"tdm_alice_[A-Za-z0-9_-]{43}", key)
    (entry,) = read_keys(file)
    assert entry.digest == digest_of(key) and key not in file.read_text()
    assert entry.limits.model_dump() == {"concurrent": 4, "tokens_per_minute": 6000, "max_tokens": 512}
    assert entry.created is not None and entry.expires is not None
    assert abs((entry.expires - entry.created).total_seconds() - 30 * 86400) < 5
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tandem("keys", "new", "--file", file).returncode == 0  # with an id of its own, without limits
    listed = tandem("keys", "list", "--file", file, variables=WIDE).stdout
    assert re.search(r"alice +valid +4 +6000 +512", listed) and "no limit" in listed and key not in listed
    assert tandem("keys", "revoke", "alice", "--file", file).returncode == 0
    assert re.search(r"alice +revoked", tandem("keys", "list", "--file", file, variables=WIDE).stdout)
    assert "revoked already" in refusal(tandem("keys", "revoke", "alice", "--file", file))
    assert "has a key 'alice' already" in refusal(tandem("keys", "new", "--file", file, "--id", "alice"))
    assert len(read_keys(file)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "--file", "{}/none/keys.json"], "--file: {}/none/keys.json: cannot be written: No such file"),
        (["new", "--file", "{}/keys.json", "--id", "A"], "--id: 'A' must be"),
        (["new", "--file", "{}/broken.json"], "--file: {}/broken.json: Invalid JSON"),
        (["new", "--file", "{}/keys.json", "--concurrent", "0"], "--concurrent"),
        (["new"], "--file"),
        (["list", "--file", "{}/gone.json"], "--file: {}/gone.json: cannot be read"),
        (["revoke", "bob", "--file", "{}/empty.json"], "has no key 'bob'"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text(json.dumps({"keys": []}))
    done = tandem("keys", *(part.format(tmp_path) for part in arguments))
    assert said.format(tmp_path) in refusal(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "empty.json"]


@pytest.mark.parametrize("name", ["new", "list", "revoke"])
def test_every_flag_says_what_it_does_and_its_default(name: str) -> None:
    done = tandem("keys", name, "--help", variables=WIDE)
    flags = [line.strip("│ ") for line in done.stdout.splitlines() if line.strip("│* ").startswith("--")]
    assert done.returncode == 0 and flags
    for line in flags:
        assert re.search(r"unset|no default|--help", line), line
    assert f"tandem keys {name}" in done.stdout


def test_it_needs_no_model_and_no_web_server() -> None:
    heavy = "('torch', 'transformers', 'numpy', 'fastapi', 'tokenizers')"
    code = f"import sys, tandem.cli.keys; print([name for name in {heavy} if name in sys.modules])"
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"
