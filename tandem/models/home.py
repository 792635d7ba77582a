"""The cache folder, and how a folder in it comes to be: whole or not at all, made by one process at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from tandem.models.errors import ModelError

_MANIFEST = "tandem-manifest.json"


def tandem_home() -> Path:
    """`TANDEM_HOME`, or `tandem` in the user's cache folder."""
    named = os.environ.get("TANDEM_HOME")
    return Path(named).expanduser() if named else user_cache_path("tandem")


def make_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `models/NAME` of the cache; made by `make(folder)` where it is missing or incomplete.

    Made under another name and renamed when whole; a second process waits for the first. Raises ModelError where the
    cache cannot be written, and what `make` raises.
    """
    folder = tandem_home() / "models" / name
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            if not is_whole(folder):
                _make(folder, make)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache {folder.parent}: {error.strerror or error}; set TANDEM_HOME"
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    # One name, which the lock makes ours: what a killed process left under it is removed here.
    scratch = folder.parent / f".{folder.name}.making"
    shutil.rmtree(scratch, ignore_errors=True)
    made = scratch / folder.name
    made.mkdir(parents=True)
    try:
        make(made)
        sizes = {path.name: path.stat().st_size for path in made.iterdir()}
        (made / _MANIFEST).write_text(json.dumps(sizes, indent=1, sort_keys=True))
        shutil.rmtree(folder, ignore_errors=True)  # what is left of an incomplete one
        made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether all files are there in the sizes that they were made with."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
