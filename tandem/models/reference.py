"""From the name of a model to a folder on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tandem.models import embedded
from tandem.models.errors import ModelNotFoundError
from tandem.models.home import make_once

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.jinja", "tokenizer.model"]
# As safetensors only: a pickle can run code when it is loaded.
_HUB_WEIGHTS = ["*.safetensors"]
#: Marks a draft that shares layers of its target; see `tandem.inference.loading`.
GRAFT = "tandem.json"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """path: a folder with config.json, safetensors and, but for grafted drafts, a tokenizer."""

    path: Path
    model_id: str
    revision: str


def resolve(name: str, revision: str | None = None, *, weights: bool = True) -> ModelFolder:
    """Finds, and fetches where needed, what `name` names: `embedded:smollm2`, `embedded:smollm2-draft`, a folder, a
    GGUF file, a folder with one GGUF file, or a Hugging Face id at `revision`.

    weights: False for who needs only what goes with them, such as a tokenizer; nothing else is then fetched from the
    hub. Raises ModelNotFoundError or ModelCorruptError.
    """
    if name.startswith("embedded:"):
        makers = {embedded.SMOLLM2: embedded.smollm2, embedded.SMOLLM2_DRAFT: embedded.smollm2_draft}
        if name not in makers:
            raise ModelNotFoundError(f"there is no {name!r}; embedded are {', '.join(makers)}")
        return ModelFolder(makers[name](), name, "")
    # Not pathlib's: those raise for a user that is not known and for a name that is too long.
    path = Path(os.path.expanduser(name))
    if os.path.exists(path):
        return _local(path)
    if _looks_like_path(name):
        raise ModelNotFoundError(f"{name} does not exist; name a folder, a GGUF file, or a Hugging Face id")
    return _from_hub(name, revision, _HUB_FILES + _HUB_WEIGHTS if weights else _HUB_FILES)


def _local(path: Path) -> ModelFolder:
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFoundError(f"{path} is neither a folder nor a GGUF file")
        return _from_gguf(path)
    if (path / "config.json").is_file():
        return ModelFolder(path, path.name, "")
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _from_gguf(ggufs[0])
    found = "more than one GGUF file; name one of them" if ggufs else "neither config.json nor a GGUF file"
    raise ModelNotFoundError(f"{path} has {found}")


def _from_gguf(path: Path) -> ModelFolder:
    # Size and time in the name: another file under the same path is converted anew.
    stat = path.stat()
    key = hashlib.sha256(f"{path}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = make_once(f"{path.stem}-{key}", lambda folder: embedded.convert_gguf(path, folder))
    return ModelFolder(folder, path.stem, "")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or _HUB_ID.fullmatch(name) is None


def _from_hub(name: str, revision: str | None, files: list[str]) -> ModelFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFoundError(
            f"{name!r}{at} is no folder here and could not be fetched from Hugging Face ({reason}); check the name,"
            " the network, and HF_TOKEN for a gated model"
        ) from error
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{name!r} has no config.json: it is not a transformers model")
    return ModelFolder(path, name, revision or path.name)
