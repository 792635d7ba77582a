"""What the shards of a folder were made from: `data.json` beside them, so that no others are mixed in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tandem.distil.prompts import templates
from tandem.distil.recipe import Recipe
from tandem.models import ModelFolder

_NAME = "data.json"
# Raised when the same recipe gives other shards than before.
_VERSION = 1


class ProvenanceError(ValueError):
    """The shards of a folder were made from something else; the message names the field."""


def facts_of(recipe: Recipe, base: Path, folder: ModelFolder, fingerprint: str) -> dict[str, Any]:
    """All that decides what is in a shard with a given number, by field of the recipe. `data.tokens` is not among it:
    more tokens are more shards.

    folder: the target's. fingerprint: of its tokenizer. Raises OSError for files that cannot be read.
    """
    prompts, data = recipe.prompts, recipe.data
    facts = {
        "version": _VERSION,
        "target": recipe.target,
        "revision": recipe.revision,
        "target weights": {path.name: path.stat().st_size for path in sorted(folder.path.glob("*.safetensors"))},
        "target tokenizer": fingerprint,
        "seed": recipe.seed,
        "prompts.files": _hashes(prompts.files, base),
        "prompts.templates": templates.fingerprint() if prompts.templates else False,
        "prompts.self_written": prompts.self_written,
        "prompts.exclude": _hashes(prompts.exclude, base),
    }
    for name in ("answer_tokens", "prompt_tokens", "temperatures", "kept", "shard_tokens", "batch", "dtype"):
        facts[f"data.{name}"] = getattr(data, name)
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]  # as it will be read again


def check_or_write(folder: Path, facts: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """Makes `data.json` where there is none. Raises ProvenanceError where it says something else.

    machine: what has no part in what is written but for the last bits of numbers. Where it differs that is returned, a
    sentence each.
    """
    path = folder / _NAME
    if not path.exists():
        _write(path, {"made_from": facts, "machine": machine})
    try:
        known = json.loads(path.read_text("utf-8"))
        before, machine_before = known["made_from"], known["machine"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProvenanceError(f"{path} cannot be read: {error}; name another folder") from error
    for name in (*facts, *before):
        if before.get(name) != facts.get(name):
            raise ProvenanceError(
                f"{folder} was made with another {name} ({_short(before.get(name))}, now {_short(facts.get(name))});"
                " set it back or name another folder"
            )
    return [
        f"{name} was {machine_before.get(name)} for the shards that are there and is {value} now: those to come are as"
        " good, but not the same to the last bit."
        for name, value in machine.items()
        if machine_before.get(name) != value
    ]


def _hashes(names: tuple[str, ...], base: Path) -> list[str]:
    """Of the contents, in order: what a file is called does not matter."""
    return [sha256((base / name).read_bytes()).hexdigest() for name in names]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, whoever else writes it, which then is the same."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    scratch.replace(path)
