"""What `bench decode --all` keeps, with speeds that can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.decode.methods import ACCEPT, BASELINE, DRAFTER, STOP
from bench.pair import Pair
from bench.policies import ALONE, VANILLA


def row(kind: str, name: str, setup: str, speeds: Sequence[float], **more: Any) -> dict[str, Any]:
    """Of prompts 0, 1, ...; ten tokens each, four rounds with six candidates kept, one of them let through."""
    report = {"verify_steps": 4, "drafted_tokens": 20, "accepted_tokens": 6, "lossy_tokens": 1}
    completions = [
        {
            "prompt": at, "dataset": "text", "tokens": 10, "tokens_per_second": speed, "speculation": report,
            "as_alone": 7,
        }
        for at, speed in enumerate(speeds)
    ]  # fmt: skip
    return {"kind": kind, "name": name, "setup": setup, "completions": completions, **more}


def methods_data(**run: Any) -> dict[str, Any]:
    """The machine is at half its speed while the second set of services runs."""
    whole = {
        "pair": Pair("rig:wide-3", "rig:noise-0.05").options(), "temperature": 0.0, "max_tokens": 10,
        "baselines": [
            row(BASELINE, ALONE, "model", (10, 20)), row(BASELINE, VANILLA, "model", (15, 30)),
            row(BASELINE, ALONE, "suffix", (5, 10)),
        ],
        "rows": [
            row(ACCEPT, "fly", "model", (20, 40), lossy=True), row(DRAFTER, "suffix", "suffix", (15, 30)),
            row(STOP, "tiers", "model", (), why="it was refused"), row(STOP, "adasd", "model", (30,)),
        ],
    }  # fmt: skip
    return {"runs": [whole | run]}
