"""How the streams of a completion are opened: at its start, and again wherever it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.acceptance import Verification
from orchestrator.request import Plan
from orchestrator.settings import OrchestratorSettings
from tandem.v1 import distribution_pb2, sampling_pb2

_RULES = {
    Verification.GREEDY: sampling_pb2.VERIFICATION_RULE_GREEDY,
    Verification.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO,
    Verification.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK,
    Verification.COUPLED: sampling_pb2.VERIFICATION_RULE_COUPLED,
}


def verification(plan: Plan) -> Verification:
    """The exact rule under which the target verifies."""
    if plan.speculation is not None:
        return plan.speculation.accept.verification(plan.is_greedy)
    # Coupled noise, so that a seed without speculation gives the text of coupled sampling with it.
    return Verification.GREEDY if plan.is_greedy else Verification.COUPLED


def opening(plan: Plan, tokens: Sequence[int]) -> dict[str, Any]:
    """What the messages that open a stream to the draft and to the target share. tokens: the prompt and all that is
    committed, which a stream that is opened later takes in with it."""
    return {
        "request_id": plan.request_id,
        "prompt_token_ids": tokens,
        "prompt_length": len(plan.prompt),
        "sampling": plan.sampling,
        "verification": _RULES[verification(plan)],
        "random_key": sampling_pb2.RandomKey(seed=plan.seed, choice=plan.choice),
        "stop_token_ids": sorted(plan.stop_token_ids),
        "min_tokens": plan.min_tokens,
        "grammar": plan.grammar,
        "grammar_end_token_ids": sorted(plan.grammar_end_token_ids),
        "priority": plan.priority,
    }


def row_format(plan: Plan, settings: OrchestratorSettings) -> distribution_pb2.DistributionFormat:
    """What the draft sends of each distribution."""
    assert plan.speculation is not None
    if verification(plan) in (Verification.RATIO, Verification.BLOCK):
        return distribution_pb2.DistributionFormat(max_entries=settings.exact_entries, mass=1.0)
    needed = plan.speculation.accept.needs_distance
    return distribution_pb2.DistributionFormat(max_entries=settings.bracket_entries if needed else 0, mass=0.999)
