"""The bench of policies runs against real services, says what it measured on, and judges pairs by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.decode.figures import DEFAULT, FULL_DRAFT, INT4_DRAFT, NOISIER_DRAFT, SMALL_DRAFT, figures
from bench.decode.run import Done, Sums
from bench.decode.tables import policy_table
from bench.goals import Outcome, Verdict, judge, read_goals
from bench.policies import ADASD, ALONE, DRAFT_ALONE, GOODPUT, POLICIES, VANILLA, chosen
from bench.prompts import BUNDLED, Prompt, read_prompts
from bench.record import read_json
from tandem.v1 import completion_pb2

ROOT = Path(__file__).parents[2]


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "decode", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ.copy())


def test_every_policy_is_measured_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    done = _bench("--count", "1", "--max-tokens", "4", "--trace", "1", "--temperature", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    for name in POLICIES:
        assert done.stdout.count(f"| {name} ") == (2 if name == ALONE else 3)  # its tables
    assert "commit" in done.stdout.splitlines()[0]
    document = read_json(path)
    [run] = document["data"]["runs"]
    assert run["temperature"] == 1 and list(run["policies"]) == list(POLICIES)
    for name, completions in run["policies"].items():
        assert [each["dataset"] for each in completions] == ["spec-bench", "gsm8k", "humaneval"]
        for each in completions:
            report = each["speculation"]
            assert each["tokens"] == 4 and each["tokens_per_second"] > 0
            # Every token is a kept candidate, the one after a block, or the target's alone.
            assert report["plain_tokens"] + report["accepted_tokens"] + report["verify_steps"] >= 4
            parts = sum(report["time"]["rounds"].values())
            assert parts == pytest.approx(report["time"]["rounds_microseconds"], rel=0.02, abs=100)
            assert (report["drafted_tokens"] > 0) <= (name not in (ALONE, DRAFT_ALONE))
    for name, traces in run["traces"].items():
        assert len(traces) == 1 and name in POLICIES
        for account in traces[0]:
            assert account["kept"] <= account["drafted"] == len(account["draft_entropies"])
            assert sum(account["time"].values()) > 0


def test_only_named_policies_run_and_the_target_alone_with_them() -> None:
    assert list(chosen([GOODPUT])) == [ALONE, GOODPUT]
    with pytest.raises(ValueError, match="there is no policy 'x'; there are 'target alone'"):
        chosen(["x"])


@pytest.mark.parametrize("content", ["{}", "no json", '{"turns": []}', '{"turns": [" "]}', '{"text": 3}', "[]"])
def test_a_file_that_holds_no_prompts_is_refused_by_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"turns": ["Hello"]}) + "\n" + content)
    with pytest.raises(ValueError, match="line 2"):
        read_prompts(path)
    done = CliRunner().invoke(app, ["decode", "--data", str(path)])
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1


def test_formats_are_told_by_their_fields(tmp_path: Path) -> None:
    assert [prompt.dataset for path in BUNDLED for prompt in read_prompts(path, 1)] == [
        "spec-bench", "gsm8k", "humaneval"
    ]  # fmt: skip
    assert [len(read_prompts(path)) for path in BUNDLED] == [20, 20, 20]
    lines = [
        {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}], "id": "a"},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "b"}]},
        {"text": "t"},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_prompts(path) == [
        Prompt("sharegpt", "a", "h"), Prompt("messages", "2", "u"), Prompt("text", "3", "t", raw=True)
    ]  # fmt: skip


def _finish(seconds: float, *, compute: float = 0.9, dataset: str = "spec-bench") -> Done:
    """Eleven tokens in so many seconds, of which models computed a share."""
    answer = completion_pb2.Finish()
    answer.usage.completion_tokens = 11
    time = answer.speculation.time
    time.total_microseconds = round(seconds * 1e6)
    time.target_compute_microseconds = round(seconds * compute * 1e6)
    return Done(Prompt(dataset, "1", "Hello"), answer)


def test_speeds_are_compared_prompt_by_prompt() -> None:
    """One prompt is slow for both: the ratio is that of each pair, not of the sums."""
    results = {ALONE: Sums([_finish(1), _finish(100)]), "twice": Sums([_finish(0.5), _finish(50)])}
    cells = {str(column.header): list(column.cells) for column in policy_table(results).columns}
    assert cells["over target alone"] == ["1", "2.00 (2.00 to 2.00)"]


def test_goals_are_judged_on_their_own_pairs() -> None:
    def results(adasd: float, vanilla: float) -> dict[str, Sums]:
        sets = ("spec-bench", "gsm8k")
        return {
            name: Sums([_finish(10 / speed, dataset=each) for each in sets])
            for name, speed in ((ALONE, 10.0), (ADASD, 10 * adasd), (VANILLA, 10 * vanilla))
        }

    measured = {
        INT4_DRAFT: results(2.8, 2.0), FULL_DRAFT: results(1.9, 1.5), NOISIER_DRAFT: results(1.5, 1.6),
        SMALL_DRAFT: results(1.3, 1.0), DEFAULT: results(0.7, 0.6),
    }  # fmt: skip
    rows = {row.figure.name: row for row in judge(figures(measured), read_goals("decode"), {})}
    found = {name: (round(row.figure.measured or 0, 3), row.verdict) for name, row in rows.items()}
    assert found == {
        "adasd_over_alone_int4": (2.8, Verdict.HOLDS), "adasd_over_alone_bf16": (1.9, Verdict.SHORT),
        "adasd_over_vanilla_best": (1.3, Verdict.HOLDS), "adasd_over_vanilla_least": (0.937, Verdict.SHORT),
        "compute_share_rig": (0.9, Verdict.SHORT), "compute_share_default": (0.9, Verdict.SHORT),
    }  # fmt: skip
    without = list(figures({FULL_DRAFT: measured[FULL_DRAFT]}))
    assert [figure.outcome for figure in without].count(Outcome.SKIPPED) == 4


def test_check_takes_no_pair_of_its_own() -> None:
    done = CliRunner().invoke(app, ["decode", "--check", "--draft-model", "prompt-lookup"])
    assert done.exit_code == 2 and "--check measures the pairs of its goals" in done.stderr
