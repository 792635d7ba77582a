"""From the name of a model to its folder, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.models import ModelFolder, ModelNotFoundError, resolve
from tests.models.checks import refused
from tests.models.folders import save_llama


def test_a_folder_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_llama(tmp_path / "tiny")
    expected = ModelFolder((tmp_path / "tiny").resolve(), "tiny", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "tiny"), "tiny", "./tiny", "~/tiny", "tiny/", "tiny/../tiny"):
        assert resolve(name) == expected, name


def test_a_folder_here_goes_before_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_hub: str
) -> None:
    save_llama(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model").path == tmp_path / "org" / "model"


@pytest.mark.parametrize(
    "name", ["./gone", "/gone/away", "~/gone", "~nobody-of-this-name/x", "a/b/c", "gone.gguf", "a b", "org/", "a\0b",
             "/" + "x" * 5000]
)  # fmt: skip
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_hub: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(ModelNotFoundError, name, "does not exist; name a folder, a GGUF file, or a Hugging Face id"):
        resolve(name)


def test_a_path_that_is_no_model_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused(ModelNotFoundError, str(tmp_path / "empty"), "neither config.json nor a GGUF file"):
        resolve(str(tmp_path / "empty"))
    (tmp_path / "weights.bin").touch()
    with refused(ModelNotFoundError, "weights.bin", "neither a folder nor a GGUF file"):
        resolve(str(tmp_path / "weights.bin"))


@pytest.mark.parametrize("name", ["embedded:", "embedded:llama", "embedded:smollm2 "])
def test_an_embedded_model_that_does_not_exist_names_those_that_do(name: str) -> None:
    with refused(ModelNotFoundError, repr(name), "embedded:smollm2, embedded:smollm2-draft"):
        resolve(name)


@pytest.mark.parametrize("name", ["org/model", "gpt2", "x" * 200])
@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_hub_that_cannot_be_reached_says_what_to_check(name: str, revision: str | None, closed_hub: str) -> None:
    words = ["check the name, the network, and HF_TOKEN"]
    with refused(ModelNotFoundError, repr(name), *([f"at revision {revision}"] if revision else []), *words):
        resolve(name, revision)


def test_offline_a_model_that_was_not_fetched_before_is_refused(
    closed_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refused(ModelNotFoundError, "'org/model'", "could not be fetched"):
        resolve("org/model")
