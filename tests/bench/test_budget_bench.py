"""The bench of a budget of candidates: its shares, what it counts, and that it runs against real services."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.budget.run import ALL, BEST, SHARES, WAYS, Measured, Scale
from bench.budget.tables import ways_table
from bench.serve.loops import Load, Loaded
from bench.serve.points import Point
from bench.serve.records import Record, Window
from tandem.v1 import completion_pb2
from tests.cli.conftest import models as models  # a fixture
from tests.cli.processes import environment

ROOT = Path(__file__).parents[2]
SCALE = Scale((8, 64), 10.0, 1, 5, 32)


def a_run(tokens: int, drafted: int, unsubmitted: int) -> Loaded:
    """One request in a window of ten seconds."""
    report = completion_pb2.SpeculationReport(drafted_tokens=drafted, unsubmitted_tokens=unsubmitted, verify_steps=1)
    finish = completion_pb2.Finish(usage=completion_pb2.Usage(completion_tokens=tokens), speculation=report)
    record = Record(1.0, arrivals=[(2.0, 1), (4.0, tokens - 1)], ended=4.0, finish=finish)
    return Loaded(Window(0.0, 10.0), [record], [record], 0.0)


def test_equal_shares_are_of_the_budget_and_less_than_one_is_the_target_alone() -> None:
    lengths = [SCALE.policy(SHARES, clients).stop.max_tokens for clients in (4, 8, 16, 32)]
    assert lengths == [5, 4, 2, 1]
    assert SCALE.policy(SHARES, 64).off
    assert all(SCALE.policy(way, 64).stop.max_tokens == 5 for way in (ALL, BEST))


def test_ratios_are_to_no_budget_and_what_was_not_verified_is_counted() -> None:
    runs = {ALL: a_run(20, 10, 0), SHARES: a_run(15, 4, 0), BEST: a_run(30, 6, 4)}
    measured = Measured({(way, 8): Point(way, Load(clients=8), [runs[way]]) for way in WAYS})
    assert [measured.ratio(way, 8).middle for way in WAYS] == pytest.approx([1.0, 0.75, 1.5])
    assert [measured.unsubmitted(way, 8) for way in WAYS] == pytest.approx([0.0, 0.0, 0.4])
    assert ways_table(measured, Scale((8,), 10.0, 1, 5, 32)).row_count == 3
    measured.points[BEST, 8].runs.append(runs[BEST])
    assert measured.whole_repetitions() == 1 and len(measured.points[BEST, 8].runs) == 1


def test_the_command_measures_real_services(models: Path, tmp_path: Path) -> None:
    data, record = tmp_path / "texts.jsonl", tmp_path / "record.json"
    data.write_text("\n".join(json.dumps({"text": f"Number {number}: "}) for number in range(3)))
    command = [
        sys.executable, "-m", "bench", "budget", "--target-model", models / "target", "--draft-model", models / "draft",
        "--threads", 1, "--data", data, "--dtype", "float32", "--max-tokens", 12, "--clients", 4, "--candidates", 6,
        "--seconds", 1, "--json", record,
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(record.read_text())
    by_way = {point["policy"]: point for point in told["data"]}
    assert set(by_way) == set(WAYS) and told["options"]["candidates"] == 6
    assert all(point["tokens_per_second"] > 0 for point in told["data"])
    assert by_way[ALL]["unsubmitted_share"] == 0 < by_way[BEST]["unsubmitted_share"]
