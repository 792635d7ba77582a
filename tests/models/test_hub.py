"""Models of the Hugging Face hub, from a small hub on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.inference.loading import load_model
from tandem.models import ModelNotFoundError, resolve
from tests.models.checks import refused
from tests.models.folders import save_llama
from tests.models.hub import COMMIT, Hub, use_hub


@pytest.fixture
def hub(closed_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Holds org/model with files that are wanted and files that are not."""
    save_llama(tmp_path / "origin")
    files = {path.name: path.read_bytes() for path in (tmp_path / "origin").iterdir()}
    files |= {"tokenizer.json": b"{}", "chat_template.jinja": b"x"}
    unwanted = {"pytorch_model.bin": b"pickle", "modeling_custom.py": b"import os", "README.md": b"#"}
    with Hub({"org/model": files | unwanted, "org/data": {"README.md": b"#"}}) as hub:
        use_hub(hub.url, monkeypatch)
        yield hub


def test_a_model_is_fetched_without_code_and_pickles(hub: Hub) -> None:
    found = resolve("org/model")
    assert (found.model_id, found.revision) == ("org/model", COMMIT)
    assert {path.name for path in found.path.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    assert load_model(found, dtype="float32", device="cpu").vocabulary_size == 64


def test_who_needs_a_tokenizer_alone_fetches_no_weights(hub: Hub) -> None:
    found = resolve("org/model", weights=False)
    assert {path.name for path in found.path.iterdir()} == {
        "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    assert resolve("org/model").path == found.path and (found.path / "model.safetensors").is_file()


def test_a_model_that_was_fetched_is_read_from_a_cache_that_cannot_be_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the services of a cluster do: another container fetched it."""
    first = resolve("org/model")
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "hub").rglob("*")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve("org/model") == first
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "hub").rglob("*")} == before


def test_the_revision_that_is_asked_for_is_the_one_that_is_fetched(hub: Hub) -> None:
    assert resolve("org/model", "v1.0").revision == "v1.0"
    assert "/api/models/org/model/revision/v1.0" in "\n".join(hub.requested)
    with refused(ModelNotFoundError, "'org/model' at revision gone", "could not be fetched"):
        resolve("org/model", "gone")


def test_a_model_that_was_fetched_is_there_when_the_hub_is_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("org/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve("org/model") == first


def test_a_name_that_the_hub_does_not_know_is_refused(hub: Hub) -> None:
    with refused(ModelNotFoundError, "'org/gone'", "could not be fetched", "check the name"):
        resolve("org/gone")


def test_what_is_no_model_is_refused(hub: Hub) -> None:
    with refused(ModelNotFoundError, "'org/data' has no config.json"):
        resolve("org/data")
