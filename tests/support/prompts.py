"""Real prompts for tests and benches; where they come from is said beside them."""

from __future__ import annotations

import json
from pathlib import Path

_FILE = Path(__file__).parents[1] / "data" / "spec_bench_20.jsonl"


def spec_bench_prompts() -> dict[int, str]:
    """First turns of 20 Spec-Bench questions by their number."""
    rows = (json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines())
    return {row["question_id"]: row["turns"][0] for row in rows}
