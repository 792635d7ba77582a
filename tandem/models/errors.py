"""Why a model cannot be had; each message is one line that says what to do."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be had or loaded."""


class ModelNotFoundError(ModelError):
    """There is no such model, or it cannot be reached."""


class ModelCorruptError(ModelError):
    """What was found is not what it should be."""


class UnsupportedModelError(ModelError):
    """The model cannot be served; the message names it."""
