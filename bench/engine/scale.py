"""How much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """step_repetitions of step_count steps for each shape, with peer_contexts different ones behind transformers'
    batches; decode_repetitions of decode_tokens for each side; agreement_tokens (of one prompt) over
    agreement_prompts; so many long prompts, prefixes and cancelled sessions."""

    peer_contexts: int = 8
    step_repetitions: int = 15
    step_count: int = 4
    decode_repetitions: int = 25
    decode_tokens: int = 24
    agreement_prompts: int = 20
    agreement_tokens: int = 64
    long_prompts: int = 20
    prefixes: int = 10
    cancelled_sessions: int = 1000


FULL = Scale()

#: Under a minute on two quiet cores.
QUICK = Scale(
    peer_contexts=1,  # repeated in every row of a batch, which takes the same time
    step_repetitions=3,
    step_count=2,
    decode_repetitions=2,
    decode_tokens=6,
    agreement_prompts=2,
    agreement_tokens=12,
    long_prompts=2,
    prefixes=2,
    cancelled_sessions=16,
)
