"""Paths in a recipe: relative to its file there, whole while a run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tandem.distil.recipe import Recipe


def whole_paths(recipe: Recipe, folder: Path) -> Recipe:
    """folder: that has the recipe. The target's path is relative to where one is, as with every command."""
    path = os.path.expanduser(recipe.target)
    if os.path.exists(path):
        recipe = recipe.model_copy(update={"target": os.path.abspath(path)})

    def whole(path: str) -> str:
        return os.path.normpath(folder.absolute() / Path(path).expanduser())

    start = recipe.student.start_from
    # Other names of models are no paths.
    return _with(recipe, whole, whole(start) if start is not None and os.path.exists(whole(start)) else start)


def relative_paths(recipe: Recipe, folder: Path) -> Recipe:
    """As a recipe in `folder` has them."""

    def relative(path: str) -> str:
        return os.path.relpath(path, folder.absolute())

    start = recipe.student.start_from
    return _with(recipe, relative, relative(start) if start is not None and os.path.isabs(start) else start)


def _with(recipe: Recipe, change: Callable[[str], str], start_from: str | None) -> Recipe:
    """With all files changed. What was set by nobody stays so, but for paths."""
    prompts, student = recipe.prompts, recipe.student
    files, exclude = (tuple(map(change, paths)) for paths in (prompts.files, prompts.exclude))
    return recipe.model_copy(
        update={
            "prompts": prompts.model_copy(update={"files": files, "exclude": exclude}),
            "student": student.model_copy(update={"start_from": start_from}),
        }
    )
