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
#: All of them.
DRAFTERS = (MODEL, PROMPT_LOOKUP, SUFFIX, STAND)


def drafter_parts(name: str) -> tuple[str, ...]:
    """The drafters of a combined name. Raises ValueError for one that is unknown or named twice."""
    parts = tuple(name.split("+"))
    for part in parts:
        if part not in DRAFTERS:
            raise ValueError(f"unknown drafter {part!r}; there are {', '.join(DRAFTERS)}, also several with + between")
        if parts.count(part) > 1:
            raise ValueError(f"{part} is named twice")
    return parts
