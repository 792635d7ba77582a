"""A draft of another family than its target, as commands start it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.session import check_models
from tests.cli.processes import service, tandem
from tests.cli.test_complete import PROMPT, answer
from tests.cli.test_services import refused

RULES = ["--max-tokens", "40", "--stop", "fixed", "--accept", "exact"]


@pytest.fixture(scope="module")
def tokenizer_alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a model."""
    folder = tmp_path_factory.mktemp("alone") / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(models / "target" / name, folder / name)
    return folder


@pytest.mark.parametrize("named", ["its model", "its tokenizer"])
def test_a_draft_that_is_told_of_its_target_drafts_for_it(
    named: str, models: Path, target: str, tokenizer_alone: Path
) -> None:
    folder = models / "target" if named == "its model" else tokenizer_alone
    with (
        service("draft_service", "--model", models / "other", "--dtype", "float32", "--for-target", folder) as draft,
        service(
            "orchestrator", "--target", target, "--draft", f"127.0.0.1:{draft}", "--tokenizer", models / "target"
        ) as port,
    ):
        check_models(f"127.0.0.1:{port}")
        found = answer(f"127.0.0.1:{port}", *RULES)
        alone = answer(f"127.0.0.1:{port}", "--max-tokens", "40", "--policy", "off")
    report: dict[str, Any] = found["speculation"]
    assert found["text"] == alone["text"]
    assert report["draft_failures"] == 0 < report["drafted_tokens"]


def test_services_started_together_tell_the_draft_of_its_target(models: Path) -> None:
    flags = ["--target-model", models / "target", "--draft-model", models / "other", "--dtype", "float32"]
    done = tandem("complete", PROMPT, "--json", *flags, *RULES)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    report = json.loads(done.stdout)["speculation"]
    assert report["draft_failures"] == 0 < report["drafted_tokens"]


def test_a_target_that_is_not_there_is_named(models: Path) -> None:
    line = refused("draft_service", "--model", models / "other", "--for-target", "./nowhere")
    assert line.startswith("draft_service: ./nowhere does not exist")
