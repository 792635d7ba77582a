"""docs/distil.md has every field of a recipe, with the default that it has."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from tandem.distil.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs/distil.md"


def fields(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            found |= fields(type(field.default), f"{name}.")
        else:
            wanted = field.is_required() or field.default is None
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            found[prefix + name] = "" if wanted else f"`{json.dumps(value)}`"
    return found


def test_every_field_of_a_recipe_is_told_with_its_default() -> None:
    section = PAGE.read_text("utf-8").split("## The recipe")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert {name.strip("`"): default for name, default, _ in cells} == fields(Recipe)
    assert all(words for _, _, words in cells)
