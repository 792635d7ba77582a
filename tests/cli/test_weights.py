"""`--weights` reaches the services, which say what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.cli.client import Client
from tandem.cli.services import Layout, LocalServices
from tests.cli.processes import refusal, running, service, tandem
from tests.cli.test_services import refused
from tests.cli.test_up import FREE, endpoint_of


def weights_of(endpoint: str) -> tuple[str, str]:
    """Of target and draft, by the orchestrator's account."""
    client = Client(endpoint)
    try:
        models = client.models()
    finally:
        client.close()
    return models.target.weights, models.draft.weights


def test_up_quantises_target_and_draft(models: Path) -> None:
    flags = ["--target-model", models / "target", "--draft-model", models / "draft", "--weights", "int8"]
    with running("up", *FREE, *flags) as command:
        assert weights_of(endpoint_of(command)) == ("int8", "int8")
        command.press_ctrl_c()
        assert command.end() == 130
    assert command.errors.count("with int8 weights") == 2, command.errors


def test_the_draft_may_have_other_weights(models: Path) -> None:
    flags = ["--target-model", models / "target", "--draft-model", models / "draft", "--draft-weights", "int4"]
    with running("up", *FREE, *flags) as command:
        assert weights_of(endpoint_of(command)) == ("full", "int4")
        command.press_ctrl_c()
        assert command.end() == 130


def test_weights_are_full_unless_asked_otherwise_and_a_drafter_without_has_none(models: Path) -> None:
    layout = Layout(target_model=str(models / "target"), draft_model="prompt-lookup")
    with LocalServices(layout, show_logs=False) as services:
        assert weights_of(services.endpoint) == ("full", "")


def test_services_draft_with_what_they_are_told_to(models: Path) -> None:
    asked = ["complete", "a b a b a b", "--max-tokens", "24", "--accept", "exact", "--json"]
    layout = Layout(target_model=str(models / "target"), draft_model=str(models / "draft"), drafter="stand+model")
    with LocalServices(layout, show_logs=False) as services:
        assert weights_of(services.endpoint) == ("full", "full")
        done = tandem(*asked, "--endpoint", services.endpoint)
    assert done.returncode == 0, done.stderr
    speculation = json.loads(done.stdout)["speculation"]
    assert speculation["drafted_tokens"] > 0 and not speculation.get("draft_failures")


def test_a_draft_says_itself_what_it_is_best_run_with(models: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    weights = load_file(models / "draft" / "model.safetensors")
    own = {name: weight for name, weight in weights.items() if "embed" not in name and "lm_head" not in name}
    save_file(own, draft / "own.safetensors")
    save_file({"token_ids": torch.arange(0, 257, 2, dtype=torch.int32)}, draft / "vocabulary.safetensors")
    (draft / "config.json").write_bytes((models / "draft" / "config.json").read_bytes())
    facts = {"base": str(models / "target"), "weights": "own.safetensors", "vocabulary": "vocabulary.safetensors"}
    (draft / "tandem.json").write_text(json.dumps({**facts, "cpu_weights": "int8"}))
    for draft_weights, held in ((None, "int8"), ("full", "full")):
        layout = Layout(
            target_model=str(models / "target"), draft_model=str(draft), draft_weights=draft_weights, dtype="float32"
        )
        with LocalServices(layout, show_logs=False) as services:
            assert weights_of(services.endpoint) == ("full", held)
            asked = ["complete", "Hello", "--max-tokens", "16", "--accept", "exact", "--endpoint", services.endpoint]
            done, alone = tandem(*asked), tandem(*asked, "--policy", "off")
        assert done.returncode == alone.returncode == 0, done.stderr
        assert done.stdout == alone.stdout != ""


def test_each_service_has_a_choice_of_its_own(models: Path) -> None:
    with (
        service("target_service", "--model", models / "target") as target,
        service("draft_service", "--model", models / "draft", "--weights", "int4") as draft,
        service(
            "orchestrator", "--target", f"127.0.0.1:{target}", "--draft", f"127.0.0.1:{draft}",
            "--tokenizer", models / "target",
        ) as port,
    ):  # fmt: skip
        assert weights_of(f"127.0.0.1:{port}") == ("full", "int4")
        done = tandem("complete", "Hello", "--max-tokens", "8", "--endpoint", f"127.0.0.1:{port}")
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(("module", "prefix"), [("target_service", "TARGET"), ("draft_service", "DRAFT")])
def test_a_service_refuses_weights_that_there_are_not(module: str, prefix: str) -> None:
    line = refused(module, variables={f"TANDEM_{prefix}_WEIGHTS": "int3"})
    assert f"--weights (TANDEM_{prefix}_WEIGHTS) is 'int3'" in line
    assert all(f"'{value}'" in line for value in ("full", "int8", "int4"))


@pytest.mark.parametrize("command", [["up", *FREE], ["complete", "Hello"], ["chat"]], ids=lambda words: words[0])
def test_a_command_passes_weights_on(command: list[str], models: Path) -> None:
    done = tandem(*command, "--weights", "int3", "--target-model", models / "target", "--draft-model", "none")
    assert done.returncode == 2 and "--weights (TANDEM_TARGET_WEIGHTS) is 'int3'" in done.stderr, done.stderr
    if command[0] != "up":  # which shows the services' logs
        assert "the target service did not start" in refusal(done)
