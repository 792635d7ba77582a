"""The folder of a run: what it was begun with, and that only one run is in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tandem.distil.files import to_toml, write_whole
from tandem.distil.recipe import Recipe

#: What may be other than when a run was begun: nothing that was computed depends on it.
_FREE = {"weights", "training.checkpoint_seconds"}


class WorkError(ValueError):
    """A folder cannot be worked in; the message says what to do."""


class WorkFolder:
    """Below the draft's own folder, so that it can be deleted when the draft is done."""

    def __init__(self, draft: Path, data: Path | None = None) -> None:
        """data: where the answers are, if not here: several drafts can learn from the same."""
        self.path = draft / "work"
        self.answers = data or self.path / "answers"
        self._draft = draft
        self._recipe = self.path / "recipe.toml"

    def training(self, share: float = 1.0) -> Path:
        """Of checkpoints, of a training on this share of the data."""
        return self.path / ("training" if share == 1 else f"training-{share:.4g}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises WorkError where another run is in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkError(f"cannot write {self.path}: {error.strerror or error}") from error
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise WorkError(f"another run is at work in {self._draft}; wait for it, or name another --out") from error
        try:
            yield
        finally:
            lock.release()

    def recipe(self) -> Recipe | None:
        """What a run here was begun with; None where there was none. Raises RecipeError."""
        return Recipe.read(self._recipe) if self._recipe.exists() else None

    def check(self, recipe: Recipe) -> None:
        """Raises WorkError where a draft of another recipe is being trained, and RecipeError.

        Until something was trained a recipe may change: which answers fit is said beside them.
        """
        before = self.recipe()
        if before is not None and self._has_trained:
            _check_same(self._draft, _flat(before.model_dump()), _flat(recipe.model_dump()))

    def begin(self, recipe: Recipe) -> bool:
        """Notes what the run is; True where it goes on. Raises what `check` raises."""
        self.check(recipe)
        goes_on = self._recipe.exists()
        write_whole(self._recipe, to_toml(recipe))
        return goes_on

    def learn_from(self, facts: dict[str, Any]) -> None:
        """Notes what the answers are. Raises WorkError where a training was begun with others: it would not come to
        what an uninterrupted one does."""
        path = self.path / "answers.json"
        if self._has_trained and path.exists() and json.loads(path.read_text("utf-8")) != facts:
            raise WorkError(f"the answers in {self.answers} have changed since; train anew with --fresh")
        write_whole(path, json.dumps(facts))

    @property
    def _has_trained(self) -> bool:
        return any(self.path.glob("training*/step-*"))

    def forget(self) -> None:
        """Of what was computed, all but the answers, which are the longest work and say themselves what they fit."""
        patterns = ("recipe.toml", "answers.json", "devices-*", "training*")
        for path in [path for pattern in patterns for path in self.path.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def note_device(self, kind: str) -> None:
        """That a part of the run was computed on such a device, `cpu` or `cuda`."""
        write_whole(self.path / f"devices-{kind}", "")

    @property
    def made_on(self) -> str:
        """`gpu` if any part was, the answers with them, or else `cpu`."""
        try:
            wrote = json.loads((self.answers / "data.json").read_text("utf-8"))["machine"]["device"]
        except (OSError, ValueError, KeyError, TypeError):
            wrote = None
        return "gpu" if wrote == "cuda" or (self.path / "devices-cuda").exists() else "cpu"


def _check_same(draft: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for field in dict.fromkeys((*now, *before)):
        if field not in _FREE and before.get(field) != now.get(field):
            raise WorkError(
                f"{field} is {_shown(now.get(field))}, but {draft} was begun with {_shown(before.get(field))}; go on"
                " with that, name another --out, or train anew with --fresh"
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> str:
    return json.dumps(value) if value is not None else "unset"
