"""The clients are light, and only who calls has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.client.conftest import CLOSED

HEAVY = "('torch', 'transformers', 'numpy', 'fastapi', 'uvicorn', 'tokenizers', 'orchestrator')"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_alone_imports_nothing() -> None:
    found = run("import sys, tandem; print([name for name in ('grpc', 'tandem.client') if name in sys.modules])")
    assert found == "[]"


def test_the_clients_need_no_model_and_no_web_server() -> None:
    found = run(
        f"import sys, tandem; tandem.Client, tandem.AsyncClient; print([n for n in {HEAVY} if n in sys.modules])"
    )
    assert found == "[]"


def test_the_orchestrator_does_without_the_clients() -> None:
    assert run("import sys, orchestrator.server; print('tandem.client' in sys.modules)") == "False"


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    import tandem

    with pytest.raises(AttributeError, match="Klient"):
        _ = tandem.Klient


def test_a_forked_process_is_told_to_make_a_client_of_its_own() -> None:
    """Where it is not told, its first call waits for ever."""
    found = run(
        "import os, tandem\n"
        f"client = tandem.Client('{CLOSED}', retries=tandem.client.Retries(attempts=1))\n"
        "try: client.models()\n"
        "except tandem.client.UnavailableError: pass\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: client.stream('x')\n"
        "    except RuntimeError as error: os._exit(7 if 'forked' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert found == "7"
