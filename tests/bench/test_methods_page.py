"""The page of methods has every one of them, and the figures that were measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.decode.methods import ACCEPT, STOP, Method, methods
from bench.page.methods_command import PAGE
from bench.page.methods_page import sections, with_figures
from bench.plots.forms.document import Document, read_document
from bench.record import write_json
from draft_service.drafters import base as draft_base
from draft_service.drafters import drawing, reading
from orchestrator import acceptance, options, stopping
from orchestrator.acceptance import base as accept_base
from orchestrator.acceptance import lossy, target_rule
from orchestrator.policy import build_accept_rule
from orchestrator.stopping import base as stop_base
from tandem.noise import NoiseStream
from tandem.sampling import SamplingParams
from tandem.v1 import draft_pb2, sampling_pb2
from tests.bench.method_records import methods_data

ROOT = Path(__file__).parents[2]
GREEDY = sampling_pb2.VERIFICATION_RULE_GREEDY


def document_of(folder: Path) -> Document:
    path = folder / "all.json"
    write_json(path, "methods", options={"prompts": 2, "max_tokens": 10}, data=methods_data())
    return read_document(path)


def test_every_method_has_a_section_that_names_its_paper_its_promise_and_a_file_that_exists() -> None:
    found = sections(PAGE.read_text(encoding="utf-8"))
    assert set(found) == {method.key for method in methods()}
    for key, text in found.items():
        paths = re.findall(r"Code:\s`([^`]+)`", text)
        assert len(paths) == 1 and (ROOT / paths[0]).is_file(), key
        assert text.count("Promise: ") == text.count("Measured:") == 1, key



@pytest.mark.parametrize("method", methods([ACCEPT, STOP]), ids=lambda each: each.key)
def test_the_section_of_a_rule_names_its_file_and_says_whether_it_is_lossless(method: Method) -> None:
    text = sections(PAGE.read_text(encoding="utf-8"))[method.key]
    [path] = re.findall(r"Code:\s`([^`]+)`", text)
    rules = acceptance.RULES if method.kind == ACCEPT else stopping.RULES
    assert path == rules[method.name].__module__.replace(".", "/") + ".py"
    changes = build_accept_rule(method.policy.accept, greedy=False).lossy
    assert re.findall(r"Here: (\w+)", text) == ["lossy" if changes else "lossless"]


async def test_the_examples_of_the_page_are_rules_and_a_drafter() -> None:
    """The imports are the readers'."""
    code = re.findall(r"```python\n(class .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {
        each: getattr(module, each)
        for module, found in (
            (options, ("Option",)), (stop_base, ("Limits", "RoundOutcome")), (accept_base, ("Position",)),
            (target_rule, ("Offer", "TargetRule", "numbers")), (lossy, ("BUDGET", "total_variation")),
            (reading, ("ReadingDrafter", "ReadingSequence")), (draft_base, ("DraftSequence", "SequenceSpec")),
            (drawing, ("Drawn",)),
        )
        for each in found
    } | {"math": math, "Sequence": Sequence, "Iterator": Iterator}  # fmt: skip
    exec("from __future__ import annotations\n" + "\n".join(code), names)
    assert names["Pairs"](pairs=3).limits().max_tokens == 6

    def let_through(log_p: float, budget: float | None = None) -> int:
        found = accept_base.TargetNumbers(log_p, math.log(0.6), 1.0, 1.0)
        position = accept_base.Position(5, 0.0, 0.5, 6, 6, target=found)
        rule = names["Floor"](greedy=True, least=0.3, lossy_budget=budget)
        return int(rule.judge([position]).kept)

    assert (let_through(math.log(0.4)), let_through(math.log(0.2)), let_through(math.log(0.4), 0.0)) == (1, 0, 0)
    params, noise = SamplingParams(temperature=0.0), NoiseStream(0)
    spec = draft_base.SequenceSpec((1,), 1, params, GREEDY, noise, frozenset(), 0, 1.0)
    echo = await names["EchoDrafter"]().open(spec)
    block = await echo.draft([3, 9], 0, 1, draft_pb2.DraftLimits(max_tokens=2))
    assert block.token_ids == [9, 9]


def test_the_page_gets_the_figures_of_a_record_and_nothing_else_changes(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    document = document_of(tmp_path)
    filled = with_figures(page, document)
    text = " ".join(sections(filled)["accept/fly"].split())
    assert (
        "Measured: rig:wide-3 with rig:noise-0.05: 2.00 (2.00 to 2.00) times the target alone at temperature 0 "
        "(1.33 (1.33 to 1.33) times vanilla; 2.50 tokens a round; 10.0 % let through; 70.0 % of the text as the target "
        "alone)." in text
    )
    assert "Measured: not measured yet." in sections(filled)["stop/tiers"]
    assert "Record: 2 prompts, 10 tokens each;" in filled and document.machine in " ".join(filled.split())
    assert all(len(line) <= 120 for line in filled.splitlines())
    assert with_figures(filled, document) == filled

    def others(text: str) -> list[str]:
        return [each for each in text.split("\n\n") if not each.startswith(("Measured:", "Record:"))]

    assert others(filled) == others(page)
    with pytest.raises(ValueError, match="decode --all"):
        with_figures(page, document.model_copy(update={"data": None}))


def test_the_command_writes_the_page_that_is_named(tmp_path: Path) -> None:
    document_of(tmp_path)
    page = tmp_path / "methods.md"
    page.write_text("## Drafters\n\n### `suffix`\n\nMeasured: not measured yet.\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["methods", str(tmp_path / "all.json"), "--page", str(page)])
    assert done.exit_code == 0, done.output
    assert "3.00 (3.00 to 3.00) times the target alone" in " ".join(page.read_text(encoding="utf-8").split())
    assert page.read_text(encoding="utf-8").endswith(".\n")
