"""The bench of telemetry's cost: both sides are what they say, and the figure is made of pairs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.goals import Figure, Outcome, Verdict, judge, read_goals
from bench.plots.forms.document import read_document
from bench.telemetry import sides
from bench.telemetry.cpu import cpu_seconds
from bench.telemetry.run import CPU_SHARE, SHARE, Measured, Side
from tests.cli.conftest import models as models  # a fixture
from tests.cli.processes import environment

ROOT = Path(__file__).parents[2]


def of(on: list[float], off: list[float], *, spans: int = 9, scrapes: int = 9) -> Figure:
    return Measured(Side(on, ()), Side(off, ()), spans, scrapes).figures()[0]


def test_the_share_is_of_pairs_and_short_only_where_all_of_its_interval_is() -> None:
    goals = read_goals("telemetry")
    off = [10.0, 20.0, 40.0, 15.0]  # whatever the machine does meanwhile
    small = of([0.995 * each for each in off], off)
    assert small.measured == pytest.approx(0.995) and small.interval is not None
    large = of([0.97 * each for each in off], off)
    noisy = of([9.0, 21.0, 38.0, 15.3], off)
    verdicts = [judge([figure], goals, {})[0].verdict for figure in (small, large, noisy)]
    assert verdicts == [Verdict.HOLDS, Verdict.SHORT, Verdict.HOLDS]


@pytest.mark.parametrize(
    ("figure", "outcome"),
    [
        (of([1.0], [1.0]), Outcome.SKIPPED),
        (of([1.0, 1.0], [1.0, 1.0], spans=0), Outcome.FAILED),
        (of([1.0, 1.0], [1.0, 1.0], scrapes=0), Outcome.FAILED),
        (of([1.0, 0.0], [1.0, 1.0]), Outcome.FAILED),
    ],
)
def test_what_was_not_all_on_or_said_nothing_is_no_figure(figure: Figure, outcome: Outcome) -> None:
    assert figure.outcome is outcome


def test_cpu_time_is_a_share_of_its_own_and_left_out_where_nobody_tells_it() -> None:
    told = Measured(Side([1.0, 1.0], [9.0, 18.0]), Side([1.0, 1.0], [10.0, 20.0]), spans=9, scrapes=9).figures()
    assert [figure.name for figure in told] == [SHARE, CPU_SHARE] and told[1].measured == pytest.approx(0.9)
    assert Measured(Side([1.0], ()), Side([1.0], ()), spans=9, scrapes=9).figures()[1].outcome is Outcome.SKIPPED
    assert cpu_seconds([2**30]) is None  # no such process


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_cpu_time_grows_with_work() -> None:
    before = cpu_seconds([os.getpid()])
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    after = cpu_seconds([os.getpid()])
    assert before is not None and after is not None and 0.1 < after - before


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DRAFT_LOG_FORMAT", "console")
    monkeypatch.delenv("TANDEM_DRAFT_OTLP_ENDPOINT", raising=False)
    with sides._variables(sides._settings([1, 2, 3], "json", "127.0.0.1:4317")):
        assert os.environ["TANDEM_DRAFT_LOG_FORMAT"] == "json" and os.environ["TANDEM_TARGET_METRICS_PORT"] == "3"
    assert os.environ["TANDEM_DRAFT_LOG_FORMAT"] == "console" and "TANDEM_DRAFT_OTLP_ENDPOINT" not in os.environ


def bench(*arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "telemetry", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment())


def test_the_command_measures_both_sides_of_real_services(models: Path, tmp_path: Path) -> None:
    data, record = tmp_path / "texts.jsonl", tmp_path / "record.json"
    data.write_text("\n".join(json.dumps({"text": f"Number {number}: "}) for number in range(3)))
    done = bench(
        "--target-model", models / "target", "--draft-model", models / "draft", "--threads", 1, "--data", data,
        "--dtype", "float32", "--max-tokens", 8, "--clients", 2, "--seconds", 1.2, "--repeat", 2, "--json", record,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert SHARE in done.stdout and CPU_SHARE in done.stdout
    assert read_document(record).bench == "telemetry"  # as the report reads it
    found = json.loads(record.read_text())["data"]
    assert len(found["on"]["speeds"]) == len(found["off"]["speeds"]) == 2
    assert all(math.isfinite(each) for each in (*found["on"]["speeds"], *found["on"]["cpu"]))
    assert found["spans"] > 50 and found["scrapes"] >= 6


@pytest.mark.parametrize("flags", [["--policy", "nonsense"], ["--data", "/no/such/file"]])
def test_what_cannot_be_measured_is_one_line(flags: list[str]) -> None:
    done = bench(*flags)
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("bench: ")
