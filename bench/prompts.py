"""Prompts of a file."""

from __future__ import annotations

import json
from pathlib import Path

#: The 20 questions that come with the tests.
SPEC_BENCH_20 = Path(__file__).parents[1] / "tests" / "data" / "spec_bench_20.jsonl"


def read_prompts(path: Path) -> list[str]:
    """First turns of a file in Spec-Bench's format. Raises OSError or ValueError, naming the line."""
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            prompts.append(str(json.loads(line)["turns"][0]))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: needs an object with a list of `turns`") from error
    return prompts
