"""Files that appear whole or not at all, and a recipe as one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tandem.distil.recipe import Recipe


def write_whole(path: Path, content: str | bytes) -> None:
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def to_toml(recipe: Recipe) -> str:
    """A recipe as `Recipe.read` takes it, with all defaults: a later version may have others. What is None is left out,
    and so is a share of self-written prompts that nobody asked for: it gives way where a target cannot have them."""
    facts = recipe.model_dump(exclude_none=True)
    if "self_written" not in recipe.prompts.model_fields_set:
        del facts["prompts"]["self_written"]
    plain = {name: value for name, value in facts.items() if not isinstance(value, dict)}
    parts = [_lines(plain)]
    parts += [f"[{name}]\n{_lines(section)}" for name, section in facts.items() if isinstance(section, dict)]
    return "\n".join(parts)


def _lines(entries: dict[str, Any]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in entries.items())


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(each) for each in value)}]"
    # JSON's texts, numbers and booleans are TOML's, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
