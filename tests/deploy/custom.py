"""The kinds of the manifests that are not Kubernetes' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

#: Of each the fields that Tandem uses.
FIELDS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "custom_kinds.yaml").read_text())


def is_custom(each: dict[str, Any]) -> bool:
    return f"{each['apiVersion']} {each['kind']}" in FIELDS
