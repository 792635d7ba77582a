"""The target that a draft is made for, by the name under which others find it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tandem.models import ModelFolder, resolve


@dataclass(frozen=True, slots=True)
class Base:
    """name, revision: as a draft's folder names its base. folder: where it is here."""

    name: str
    revision: str | None
    folder: ModelFolder


def find_base(name: str, revision: str | None) -> Base:
    """Fetches the target where needed. A folder or file is named by its whole path, a hub's model by its commit.

    Raises ModelError.
    """
    folder = resolve(name, revision)
    if name.startswith("embedded:"):
        return Base(name, None, folder)
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return Base(os.path.abspath(path), None, folder)
    return Base(name, folder.revision, folder)
