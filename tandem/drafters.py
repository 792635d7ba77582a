"""What a draft service may draft with, by name: one drafter, or several with `+` between, asked in that order."""

from __future__ import annotations

#: Drafts with the model that `--model` names.
MODEL = "model"
#: Copies what followed the last tokens where they occurred last; also a name in the place of a model's.
PROMPT_LOOKUP = "prompt-lookup"
#: Copies what followed the longest end of the text that has been there before.
SUFFIX = "suffix"
#: Draws from what the target has said after the same few tokens.
STAND = "stand"
#: Drafts with the first layers of the model that `--model` names: the target itself.
EARLY_EXIT = "early-exit"
#: Those that load what `--model` names; one of them at most.
WITH_MODEL = (MODEL, EARLY_EXIT)
#: All of them.
DRAFTERS = (MODEL, PROMPT_LOOKUP, SUFFIX, STAND, EARLY_EXIT)


def drafter_parts(drafter: str | None, model: str) -> tuple[str, ...]:
    """The drafters of a name, in the order in which they are asked. drafter: None for what `model` says, which names a
    model or stands for PROMPT_LOOKUP. Raises ValueError for what is unknown, named twice, or does not go together."""
    if drafter is None:
        return (PROMPT_LOOKUP if model == PROMPT_LOOKUP else MODEL,)
    parts = tuple(drafter.split("+"))
    for part in parts:
        if part not in DRAFTERS:
            raise ValueError(f"unknown drafter {part!r}; there are {', '.join(DRAFTERS)}, also several with + between")
        if parts.count(part) > 1:
            raise ValueError(f"{part} is named twice")
    if sum(part in WITH_MODEL for part in parts) > 1:
        raise ValueError(f"only one of {' and '.join(WITH_MODEL)} may be named")
    if model == PROMPT_LOOKUP and parts != (PROMPT_LOOKUP,):
        raise ValueError(f"{drafter} does not go with {PROMPT_LOOKUP} in the model's place")
    return parts
