"""The file of keys: what it holds, who may read it, and that it is whole at any time."""

from __future__ import annotations

import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.settings import OrchestratorSettings
from tandem.keys import KeyFileError, KeyLimits, digest_of, id_of, locked, make_key, read_keys, write_keys
from tandem.settings import load_settings

HASH = "sha256:" + "0" * 64


def test_a_key_has_256_random_bits_and_its_file_only_their_hash(tmp_path: Path) -> None:
    made = [make_key("alice", KeyLimits(concurrent=2), None) for _ in range(20)]
    assert len({key for key, _ in made}) == 20
    key, entry = made[0]
    prefix, name, secret = key.split("_", 2)
    assert (prefix, name, len(secret)) == ("tdm", "alice", 43)  # base64 of 32 bytes
    write_keys(tmp_path / "keys.json", [entry])
    text = (tmp_path / "keys.json").read_text()
    assert secret not in text and digest_of(key).hex() in text
    assert read_keys(tmp_path / "keys.json") == (entry,)


def test_the_file_is_for_its_owner_alone_whatever_it_was_before(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    for _ in range(2):
        write_keys(file, [])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


def test_a_file_that_cannot_be_written_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.json"
    write_keys(file, [make_key("a", KeyLimits(), None)[1]])
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(KeyFileError, match="cannot be written: No space left"):
        write_keys(file, [])
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["keys.json"]


def test_who_reads_while_it_is_written_reads_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entries = [make_key(f"k{number}", KeyLimits(), None)[1] for number in range(40)]
    write_keys(file, entries)
    done = threading.Event()

    def write() -> None:
        for size in range(30):
            write_keys(file, entries[:size])
        done.set()

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        while not done.is_set() and not writing.done():
            read_keys(file)
        writing.result()


def test_those_who_add_keys_at_once_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write_keys(file, [])

    def add(number: int) -> None:
        with locked(file):
            write_keys(file, [*read_keys(file), make_key(f"k{number}", KeyLimits(), None)[1]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert {entry.id for entry in read_keys(file)} == {f"k{number}" for number in range(24)}


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a" * 33, "é", "a b", "a\n"])
def test_an_id_is_small_letters_digits_and_dashes(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        make_key(name, KeyLimits(), None)


def test_what_is_no_key_has_no_id() -> None:
    key, entry = make_key(None, KeyLimits(), None)
    assert id_of(key) == entry.id
    for text in ("", "tdm", key[:-1], f"{key}x", f" {key}", f"{key}\n", key.upper(), "sk-123", "tdm__" + "x" * 43):
        assert id_of(text) is None, text


BROKEN = [
    ("", "invalid JSON: EOF"),
    ("[]", "object"),
    ("{}", "keys: Field required"),
    ('{"keys": [{"id": "a"}]}', "keys.0.hash: Field required"),
    (json.dumps({"keys": [{"id": "a", "hash": "sha256:00"}]}), "keys.0.hash"),
    (json.dumps({"keys": [{"id": "A", "hash": HASH}]}), "keys.0.id"),
    (json.dumps({"keys": [{"id": "a", "hash": HASH, "limit": 3}]}), "keys.0.limit: Extra inputs"),
    (json.dumps({"keys": [{"id": "a", "hash": HASH, "limits": {"concurrent": 0}}]}), "keys.0.limits.concurrent"),
    (json.dumps({"keys": [{"id": "a", "hash": HASH, "limits": {"concurrent": "4"}}]}), "keys.0.limits.concurrent"),
    (json.dumps({"keys": [{"id": "a", "hash": HASH, "expires": "2030-01-01"}]}), "keys.0.expires"),
    (json.dumps({"keys": [{"id": "a", "hash": HASH}] * 2}), "there are two keys with the id 'a'"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_file_that_is_none_is_one_line_at_the_start(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        load_settings(OrchestratorSettings, ["--api-keys", str(file)])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said in line and HASH not in line
    assert line.startswith("python -m orchestrator: --api-keys (TANDEM_ORCHESTRATOR_API_KEYS) is ")


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(OrchestratorSettings, ["--api-keys", str(tmp_path / "gone.json")])
    assert "--api-keys" in (said := capsys.readouterr().err) and "cannot be read: No such file" in said


def test_a_key_is_valid_until_it_expires_or_is_revoked() -> None:
    now = datetime.now(UTC)
    _, entry = make_key("a", KeyLimits(), now + timedelta(hours=1))
    assert entry.state(now) == "valid" and entry.state(now + timedelta(hours=1)) == "expired"
    revoked = entry.model_copy(update={"revoked": now})
    assert revoked.state(now) == "revoked" and revoked.state(now - timedelta(seconds=1)) == "valid"
