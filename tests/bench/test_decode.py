"""The bench of policies runs against real services and says what it measured on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.decode import POLICIES, Sums
from bench.prompts import read_prompts
from bench.tables import policy_table
from tandem.v1 import completion_pb2

ROOT = Path(__file__).parents[2]


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "decode", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ.copy())


def test_every_policy_is_measured() -> None:
    done = _bench("--count", "1", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    for name in POLICIES:
        assert done.stdout.count(f"| {name} ") == 2  # in both tables
    assert "commit" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("content", ["{}", "no json", '{"turns": []}'])
def test_a_file_that_holds_no_prompts_is_refused_by_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"turns": ["Hello"]}) + "\n" + content)
    with pytest.raises(ValueError, match="line 2"):
        read_prompts(path)
    done = _bench("--data", str(path))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_speeds_are_compared_prompt_by_prompt() -> None:
    """One prompt is slow for both: the ratio is that of each pair, not of the sums."""

    def finish(seconds: float) -> completion_pb2.Finish:
        answer = completion_pb2.Finish()
        answer.usage.completion_tokens = 11
        answer.speculation.time.total_microseconds = round(seconds * 1e6)
        return answer

    results = {"target alone": Sums([finish(1), finish(100)]), "twice": Sums([finish(0.5), finish(50)])}
    cells = [list(column.cells) for column in policy_table(results).columns]
    assert cells[-1] == ["1", "2.00 (2.00 to 2.00)"]
