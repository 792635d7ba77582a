"""Custom kinds as their projects define them: CustomResourceDefinitions, as validators of objects."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator


@cache
def validators(folder: Path) -> dict[str, Draft202012Validator]:
    """Of every version of every kind that is defined in the YAML files of `folder`: by `GROUP/VERSION KIND`."""
    found: dict[str, Draft202012Validator] = {}
    for path in sorted(folder.glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            if not each or each["kind"] != "CustomResourceDefinition":
                continue
            spec = each["spec"]
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
                found[f"{spec['group']}/{version['name']} {spec['names']['kind']}"] = Draft202012Validator(schema)
    return found


def _strict(schema: Any) -> Any:
    """As JSON Schema that takes no unknown field, where the API server would drop it without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {name: _strict(each) for name, each in schema.items() if name != "format"}
    named = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if named and "additionalProperties" not in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made
