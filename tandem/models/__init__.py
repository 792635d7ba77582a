"""Where models come from: names to folders on this machine. Loads no weights."""

from __future__ import annotations

from tandem.models.errors import ModelCorruptError, ModelError, ModelNotFoundError, UnsupportedModelError
from tandem.models.reference import ModelFolder, resolve

__all__ = ["ModelCorruptError", "ModelError", "ModelFolder", "ModelNotFoundError", "UnsupportedModelError", "resolve"]
