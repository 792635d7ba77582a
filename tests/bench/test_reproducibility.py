"""The bench of reproducibility compares texts token by token, and runs against real services."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plots.forms.document import read_document
from bench.reproducibility.run import WAYS, Sameness, equal_tokens, is_kept
from bench.reproducibility.tables import sameness_table
from tandem.cli.complete import Completion
from tests.cli.conftest import models as models  # a fixture
from tests.cli.processes import environment

ROOT = Path(__file__).parents[2]


def completion(token_ids: list[int], *, drafted: int = 3) -> Completion:
    found = Completion(token_ids=token_ids)
    found.finish.speculation.drafted_tokens = drafted
    return found


@pytest.mark.parametrize(
    ("one", "other", "count"), [([], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 4, 3], 1), ([1, 2], [1], 1)]
)
def test_tokens_are_equal_up_to_the_first_difference(one: list[int], other: list[int], count: int) -> None:
    assert equal_tokens(one, other) == equal_tokens(other, one) == count


def test_a_text_that_differs_is_counted_and_breaks_the_promise() -> None:
    alone = [completion([1, 2, 3, 4]), completion([5, 6, 7, 8])]
    same = Sameness.of([completion([1, 2, 3, 4]), completion([5, 6, 0, 8])], alone)
    assert same == Sameness(texts=2, equal=1, tokens=8, before=6, drafted=6, accepted=0)
    cells = [list(column.cells) for column in sameness_table({"x": same}).columns]
    assert cells == [["x"], ["1 of 2"], ["75.0%"], ["6"], ["0"]]
    kept = Sameness.of(alone, alone)
    assert is_kept({"x": kept}) and not is_kept({"x": kept, "y": same})


def test_texts_of_which_nothing_was_drafted_show_nothing() -> None:
    alone = [completion([1, 2], drafted=0)]
    assert not is_kept({"x": Sameness.of(alone, alone)})


def bench(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "reproducibility", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment())


def test_the_command_measures_real_services(models: Path, tmp_path: Path) -> None:
    data, record = tmp_path / "texts.jsonl", tmp_path / "record.json"
    data.write_text("\n".join(json.dumps({"text": f"Number {number}: "}) for number in range(3)))
    done = bench(
        "--target-model", models / "target", "--draft-model", models / "draft", "--threads", 1, "--data", data,
        "--dtype", "float32", "--max-tokens", 16, "--parallel", 3, "--check", "--json", record,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3 of 3") == 2 * len(WAYS)
    assert read_document(record).bench == "reproducibility"  # as the report reads it
    runs = json.loads(record.read_text())["data"]["runs"]
    assert [(run["dtype"], run["temperature"]) for run in runs] == [("float32", 0.0), ("float32", 1.0)]
    for run in runs:
        assert list(run["ways"]) == list(WAYS)
        for name, same in run["ways"].items():
            assert same["before"] == same["tokens"] == 48
            assert (same["drafted"] > 0) >= name.startswith("coupled, 5") and same["accepted"] <= same["drafted"]


def test_bad_input_is_one_line() -> None:
    done = bench("--data", "nowhere.jsonl")
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr and len(done.stderr.strip().splitlines()) == 1
