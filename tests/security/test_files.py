"""Files that cannot be used are one line with the flag, the variable and the file, before anything is served."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from tandem.rpc.pem import names
from tandem.settings import ServiceSettings, load_settings
from target_service.settings import TargetSettings
from tests.cli.processes import run
from tests.security.certificates import PAST, Authority, Pair


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def problem(settings: type[ServiceSettings], flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(settings, flags)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert (ended.value.code, said.out, len(lines)) == (2, "", 1), said.err
    return lines[0]


def tls_flags(pair: Pair) -> list[str]:
    return ["--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)]


def encrypt(path: Path) -> None:
    key = load_pem_private_key(path.read_bytes(), None)
    form = Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(*form))


BROKEN: list[tuple[str, Callable[[Pair], object], str]] = [
    ("certificate", lambda pair: pair.certificate.unlink(), "cannot be read: No such file"),
    ("key", lambda pair: pair.key.unlink(), "cannot be read: No such file"),
    ("certificate", lambda pair: pair.certificate.write_text("x"), "holds no certificate in PEM"),
    ("certificate", lambda pair: pair.certificate.write_bytes(pair.key.read_bytes()), "holds no certificate in PEM"),
    ("key", lambda pair: pair.key.write_text("-----BEGIN PRIVATE KEY-----\nAA==\n"), "holds no private key in PEM"),
    ("key", lambda pair: pair.key.write_bytes(pair.certificate.read_bytes()), "holds no private key in PEM"),
    ("key", lambda pair: encrypt(pair.key), "is encrypted"),
]


@pytest.mark.parametrize(("part", "broken", "said"), BROKEN, ids=[f"{case[0]} {case[2]}" for case in BROKEN])
@pytest.mark.parametrize("settings", [DraftSettings, TargetSettings, OrchestratorSettings])
def test_each_service_names_what_it_cannot_use(
    settings: type[ServiceSettings],
    part: str,
    broken: Callable[[Pair], object],
    said: str,
    pair: Pair,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert load_settings(settings, tls_flags(pair)).server_tls() is not None
    broken(pair)
    line = problem(settings, tls_flags(pair), capsys)
    variable = f"{settings.model_config['env_prefix']}TLS_{part.upper()}"
    assert f"--tls-{part} ({variable}) is {str(getattr(pair, part))!r}: {said}" in line


def test_a_key_of_another_certificate_is_refused(
    authority: Authority, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(authority.issue("other").key, pair.key)
    line = problem(DraftSettings, tls_flags(pair), capsys)
    assert "--tls-key" in line and f"is not the key of the certificate in {pair.certificate}" in line


def test_dates_that_do_not_hold_are_told(authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    expired = authority.issue("expired", not_after=PAST)
    assert f"expired on {PAST:%Y-%m-%d}" in problem(DraftSettings, tls_flags(expired), capsys)
    far = datetime.now(UTC) + timedelta(days=30)
    early = authority.issue("early", not_after=far)
    assert f"valid only from {far - timedelta(days=1):%Y-%m-%d}" in problem(DraftSettings, tls_flags(early), capsys)


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        (["--tls-certificate"], "--tls-key"),
        (["--tls-key"], "--tls-certificate"),
        (["--tls-client-ca"], "--tls-certificate"),
        (["--upstream-certificate"], "--upstream-ca"),
        (["--upstream-ca", "--upstream-certificate"], "--upstream-key"),
        (["--upstream-ca", "--upstream-key"], "--upstream-certificate"),
    ],
    ids=str,
)
def test_what_is_missing_beside_what_is_given_is_named(
    given: list[str], needed: str, authority: Authority, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"certificate": pair.certificate, "key": pair.key, "ca": authority.ca}
    flags = [text for flag in given for text in (flag, str(files[flag.rpartition("-")[2]]))]
    line = problem(OrchestratorSettings, flags, capsys)
    assert f"orchestrator: {needed} (TANDEM_ORCHESTRATOR_" in line and "is needed" in line


@pytest.mark.parametrize("flag", ["--tls-client-ca", "--upstream-ca"])
def test_an_authority_that_is_none_is_named(
    flag: str, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    line = problem(OrchestratorSettings, [*tls_flags(pair), flag, str(tmp_path / "ca.pem")], capsys)
    assert f"{flag} (" in line and "holds no certificate in PEM" in line


def test_empty_variables_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compose makes of variables that are not set."""
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "UPSTREAM_CA", "API_KEYS"):
        monkeypatch.setenv(f"TANDEM_ORCHESTRATOR_{name}", "")
    settings = load_settings(OrchestratorSettings, [])
    assert settings.server_tls() is None and settings.upstream_tls() is None and settings.api_keys is None


def test_the_names_that_a_certificate_holds(authority: Authority) -> None:
    def held(*identities: str, common_name: str | None = None) -> list[str]:
        return names(authority.issue("x", *identities, common_name=common_name).certificate.read_bytes())

    assert held("a.b", "*.c.d", "10.0.0.1", "::1") == ["a.b", "any.c.d", "10.0.0.1", "::1"]
    assert held(common_name="only.this") == ["only.this"]


@pytest.mark.parametrize("module", ["draft_service", "target_service", "orchestrator"])
def test_a_process_ends_with_2_and_the_line(module: str, pair: Pair) -> None:
    pair.key.unlink()
    done = run(sys.executable, "-m", module, *tls_flags(pair))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python -m {module}: --tls-key (") and len(done.stderr.splitlines()) == 1
