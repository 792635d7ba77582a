"""How much of a disk a run will need."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tandem.distil.recipe import Recipe

#: Prompts beside the answers, in tokens for each of theirs: a token is 4 bytes, a place many.
_PROMPTS = 4
#: Checkpoints on disk, one being written with them; each has a weight and two sums for it, in float32.
_CHECKPOINTS = 3 * 3 * 4


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes. answers: with the target's distributions. training: checkpoints and the draft."""

    answers: int
    training: int


def needed(recipe: Recipe, parameters: int) -> Space:
    """parameters: that are trained."""
    token = 4 + recipe.data.kept * (4 + 2) + 4 * _PROMPTS
    return Space(recipe.data.tokens * token, parameters * (_CHECKPOINTS + 2))


def free(folder: Path) -> int:
    """On the disk that has it, or will."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def in_words(count: float) -> str:
    units = ["bytes", "KB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 10 and units[0] != "bytes" else f"{count:.0f} {units[0]}"
