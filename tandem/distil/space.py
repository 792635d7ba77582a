"""How much of a disk a run will need."""

from __future__ import annotations

import os
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


def used(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())


def in_words(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            break
        count /= 1000
    else:
        unit = "TB"
    return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
