"""Tiny models on disk, and the three services on them as one starts them by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import service
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer

_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
#: Long enough that a completion to the end of it outlasts what a test does to it.
CONTEXT = 32768


def _save(path: Path, *, vocabulary: int = 257, noise: float = 0.0) -> None:
    tiny_llama(3, vocabulary=vocabulary, noise=noise, context=CONTEXT).model.save_pretrained(path)
    byte_tokenizer(vocabulary)._tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (path / "chat_template.jinja").write_text(_TEMPLATE)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `target`, `draft`, and `other`, whose tokenizer is another."""
    folder = tmp_path_factory.mktemp("models")
    _save(folder / "target")
    _save(folder / "draft", noise=0.1)
    _save(folder / "other", vocabulary=200)
    return folder


@pytest.fixture(scope="session")
def target(models: Path) -> Iterator[str]:
    """HOST:PORT of a target service."""
    with service("target_service", "--model", models / "target", "--dtype", "float32") as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="session")
def endpoint(models: Path, target: str) -> Iterator[str]:
    """HOST:PORT of the orchestrator of three services."""
    with (
        service("draft_service", "--model", models / "draft", "--dtype", "float32") as port,
        service(
            "orchestrator", "--target", target, "--draft", f"127.0.0.1:{port}", "--tokenizer", models / "target"
        ) as orchestrator,
    ):
        yield f"127.0.0.1:{orchestrator}"
