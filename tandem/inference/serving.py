"""From the name of a model to an engine that runs it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tandem.grammars import Grammars
from tandem.inference.capacity import GPU_SHARE
from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import ModelRunner
from tandem.inference.threads import leave_threads_to_engine
from tandem.models import resolve
from tandem.tokenization import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An engine, not started yet, and what its service says of the model. grammars: of its tokenizer."""

    engine: Engine
    loaded: LoadedModel
    model_id: str
    revision: str
    fingerprint: str
    grammars: Grammars


def load_engine(
    name: str,
    revision: str | None,
    *,
    dtype: str,
    device: str,
    threads: int | None,
    weights: str = "full",
    cache_bytes: int | None = None,
    gpu_share: float = GPU_SHARE,
    limits: EngineLimits | None = None,
    turns: Path | None = None,
    keeps_turns: bool = False,
) -> ServedModel:
    """Resolves, loads and checks a model, and makes room for its cache (see `blocks_for`).

    turns, keeps_turns: see `Turns`; None, or a model that is not on the CPU, takes none. Raises ModelError,
    UnsupportedModelError, TokenizationError, or OSError for `turns`.
    """
    started = time.perf_counter()
    threads = leave_threads_to_engine(threads)
    folder = resolve(name, revision)
    tokenizer = Tokenizer.from_folder(tokenizer_folder(folder))
    loaded = load_model(folder, dtype=dtype, device=device, weights=weights)
    # Output layers are padded, by another amount in each size of a family; ids that no token has are never drawn.
    loaded = replace(loaded, vocabulary_size=min(loaded.vocabulary_size, tokenizer.vocabulary_size))
    runner = ModelRunner(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
    shared = None
    if turns is not None and loaded.device.type == "cpu":
        from tandem.inference.turns import Turns  # not for every system

        shared = Turns(turns, keeps=keeps_turns)
    engine = Engine(runner, limits, threads=threads, turns=shared)
    _log.info(
        "loaded %s: %.0f M parameters, %s%s on %s, a cache of %d tokens (%.0f MB), in %.1f s",
        folder.model_id, loaded.parameter_count / 1e6, loaded.dtype,
        "" if weights == "full" else f" with {weights} weights", loaded.device, runner.cache.capacity,
        runner.cache.capacity * runner.cache.shape.bytes / 1e6, time.perf_counter() - started,
    )  # fmt: skip
    return ServedModel(engine, loaded, folder.model_id, folder.revision, tokenizer.fingerprint, Grammars(tokenizer))
