"""What an answer tells of its cost: OpenAI's usage, vLLM's `metrics.speculative_decoding`, and Tandem's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

from tandem.v1 import completion_pb2


def usage(finishes: Sequence[completion_pb2.Finish], choices: int) -> dict[str, Any]:
    """Sums over all choices, in order; the prompt that `choices` of them share is counted once."""
    prompt = sum(finish.usage.prompt_tokens for finish in finishes[::choices])
    completion = sum(finish.usage.completion_tokens for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(finish.usage.accepted_prediction_tokens for finish in finishes),
            "rejected_prediction_tokens": sum(finish.usage.rejected_prediction_tokens for finish in finishes),
        },
    }


def metrics(finishes: Sequence[completion_pb2.Finish]) -> dict[str, Any]:
    """What speculation did, over all choices.

    speculative_decoding: as vLLM has it; num_spec_tokens is the longest block, since blocks differ in length here.
    speculation: what only Tandem has.
    """
    reports = [finish.speculation for finish in finishes]
    steps, drafted, accepted = (
        sum(getattr(report, name) for report in reports)
        for name in ("verify_steps", "drafted_tokens", "accepted_tokens")
    )
    accepted_at = [sum(column) for column in zip_longest(*(report.accepted_at for report in reports), fillvalue=0)]
    return {
        "speculative_decoding": {
            "mean_acceptance_length": 1 + accepted / steps if steps else 1.0,
            "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
            # [j]: verifications in which exactly j candidates were accepted. They are accepted from the first on.
            "acceptance_histogram": [more - fewer for more, fewer in pairwise([steps, *accepted_at, 0])],
            "num_spec_steps": steps,
            "num_accepted_draft_tokens": accepted,
            "num_draft_tokens": drafted,
            "num_spec_tokens": len(accepted_at),
        },
        "speculation": {
            "stop_rule": reports[0].stop_rule,
            "accept_rule": reports[0].accept_rule,
            "lossy": any(report.lossy for report in reports),
            "lossy_tokens": sum(report.lossy_tokens for report in reports),
            "lossy_charge": max(report.lossy_charge for report in reports),
            "accepted_at": accepted_at,
            "draft_failures": sum(report.draft_failures for report in reports),
        },
    }
