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
    return _each(recipe, lambda path: os.path.normpath(folder.absolute() / Path(path).expanduser()))


def relative_paths(recipe: Recipe, folder: Path) -> Recipe:
    """As a recipe in `folder` has them."""
    return _each(recipe, lambda path: os.path.relpath(path, folder.absolute()))


def _each(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    prompts, start = recipe.prompts, recipe.student.start_from
    files, exclude = (tuple(map(change, paths)) for paths in (prompts.files, prompts.exclude))
    if start is not None and not start.startswith("embedded:"):
        start = change(start)
    return recipe.model_copy(
        update={
            "prompts": prompts.model_copy(update={"files": files, "exclude": exclude}),
            "student": recipe.student.model_copy(update={"start_from": start}),
        }
    )
