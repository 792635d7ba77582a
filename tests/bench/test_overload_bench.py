"""The bench of overload: what it counts, and that it runs against real services."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.goals import Figure, Outcome, Verdict, judge, read_goals
from bench.overload.figures import REFUSAL, SHARE, SPECULATION, WITHOUT_GOAL, figures
from bench.overload.points import Point
from bench.overload.run import Measured, whole_repetitions
from bench.plots.forms.document import read_document
from bench.serve.loops import Loaded
from bench.serve.records import Record, Window
from tandem.v1 import completion_pb2
from tests.cli.conftest import models as models  # a fixture
from tests.cli.processes import environment

ROOT = Path(__file__).parents[2]


def a_run(ended: int, refused: int = 0, late: int = 0, *, drafted: int = 0) -> Loaded:
    """A window of ten seconds."""
    finish = completion_pb2.Finish(
        usage=completion_pb2.Usage(completion_tokens=10),
        speculation=completion_pb2.SpeculationReport(drafted_tokens=drafted),
    )
    records = [Record(1.0, ended=2.0, finish=finish) for _ in range(ended)]
    records += [Record(1.0, ended=1.1, failure="RESOURCE_EXHAUSTED") for _ in range(refused)]
    records += [Record(1.0, ended=6.0, failure="DEADLINE_EXCEEDED") for _ in range(late)]
    return Loaded(Window(0.0, 10.0), records, records, 0.0)


def measured(at: Sequence[Loaded], above: Sequence[Loaded]) -> Measured:
    points = [Point(1.0, 2.0, list(at)), Point(3.0, 6.0, list(above))]
    return Measured(alone=1.0, deadline=5.0, by_clients={2: 2.0}, points=points)


def found(of: Measured, repetitions: int = 5) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(of, repetitions)}


def test_goodput_counts_only_what_ends_within_its_deadline() -> None:
    at, above = [a_run(20, drafted=20)] * 5, [a_run(15, refused=40, late=5, drafted=5)] * 5
    named = found(measured(at, above))
    assert named[SHARE].measured == pytest.approx(0.75)
    assert named[REFUSAL].measured == pytest.approx(0.1 / 5.0)
    assert named[SPECULATION].measured == pytest.approx(0.25)
    rows = judge(named.values(), read_goals("overload"), WITHOUT_GOAL)
    assert {row.figure.name: row.verdict for row in rows}[SHARE] is Verdict.SHORT
    good = found(measured(at, [a_run(19, refused=40)] * 5))
    assert judge([good[SHARE]], read_goals("overload"), {})[0].verdict is Verdict.HOLDS


def test_few_repetitions_and_no_goodput_are_no_verdict_that_holds() -> None:
    assert found(measured([a_run(20)], [a_run(20)]), 1)[SHARE].outcome is Outcome.SKIPPED
    assert found(measured([a_run(20)] * 5, [a_run(0, refused=9)] * 5))[SHARE].outcome is Outcome.FAILED
    assert found(Measured(points=[Point(1.0, 2.0, [a_run(1)] * 5)]))[SHARE].outcome is Outcome.SKIPPED


def test_of_an_interrupted_run_whole_repetitions_are_kept() -> None:
    interrupted = measured([a_run(1), a_run(2)], [a_run(3)])
    assert whole_repetitions(interrupted) == 1
    assert [len(point.runs) for point in interrupted.points] == [1, 1]


def bench(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "overload", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment())


def test_the_command_measures_real_services_at_and_above_capacity(models: Path, tmp_path: Path) -> None:
    data, record = tmp_path / "texts.jsonl", tmp_path / "record.json"
    data.write_text("\n".join(json.dumps({"text": f"Number {number}: "}) for number in range(3)))
    done = bench(
        "--target-model", models / "target", "--draft-model", models / "draft", "--threads", 1, "--data", data,
        "--dtype", "float32", "--max-tokens", 8, "--clients", 2, "--seconds", 1.5, "--patience", 40, "--json", record,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert SHARE in done.stdout and "times capacity" in done.stdout
    assert read_document(record).bench == "overload"
    told = json.loads(record.read_text())["data"]
    assert [point["multiple"] for point in told["points"]] == [1.0, 3.0] and told["capacity"] > 0
    assert told["deadline_seconds"] == pytest.approx(40 * told["alone_seconds"])


@pytest.mark.parametrize("flags", [["--policy", "nonsense"], ["--times", "0"], ["--check", "--repeat", "2"]])
def test_what_cannot_be_measured_is_one_line(flags: list[str]) -> None:
    done = bench(*flags)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("bench: ") and flags[0].lstrip("-") in done.stderr
