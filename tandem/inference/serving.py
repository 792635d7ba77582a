"""From the name of a model to an engine that runs it."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.grammars import Grammars
from tandem.inference.capacity import GPU_SHARE
from tandem.inference.engine import Engine, EngineLimits
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import ModelRunner
from tandem.inference.threads import leave_threads_to_engine
from tandem.models import UnsupportedModelError, resolve
from tandem.tokenization import Tokenizer

if TYPE_CHECKING:
    from tandem.inference.parallel.group import Leader
    from tandem.inference.parallel.place import Place

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An engine, not started yet, and what its service says of the model. grammars: of its tokenizer. group: of
    processes that it leads; to be closed after the engine."""

    engine: Engine
    loaded: LoadedModel
    model_id: str
    revision: str
    fingerprint: str
    grammars: Grammars
    group: Leader | None = None


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
    place: Place | None = None,
    exits: bool = False,
    may_be_fed: bool = False,
) -> ServedModel:
    """Resolves, loads and checks a model, and makes room for its cache (see `blocks_for`).

    turns, keeps_turns: see `Turns`; None, or a model that is not on the CPU, takes none. place: where this process
    leads several. exits: whether sequences may leave the model early (`ExitRunner`). may_be_fed: whether
    it may be a draft that reads its target's features. Raises ModelError, UnsupportedModelError, TokenizationError, or
    OSError for `turns`.
    """
    started = time.perf_counter()
    threads = leave_threads_to_engine(threads)
    folder = resolve(name, revision)
    tokenizer = Tokenizer.from_folder(tokenizer_folder(folder))
    group = None
    if place is not None:
        from tandem.inference.parallel.start import lead

        group = lead(place, folder, dtype=dtype, device=device, weights=weights)
        device = str(group.device)
    with nullcontext() if group is None else group.loading():
        shards = 1 if place is None else place.world
        loaded = load_model(folder, dtype=dtype, device=device, weights=weights, shards=shards)
        if loaded.is_fed and not may_be_fed:
            raise UnsupportedModelError(
                f"{folder.model_id} reads its target's features: only a draft service can run it, with --drafter model"
            )
        # Output layers are padded, by another amount in each size of a family; ids that no token has are never drawn.
        loaded = _with_ids_below(loaded, tokenizer.vocabulary_size, folder.model_id)
        runner = _runner(loaded, group, cache_bytes, gpu_share, exits=exits)
    shared = None
    if turns is not None and loaded.device.type == "cpu":
        from tandem.inference.turns import Turns  # not for every system

        shared = Turns(turns, keeps=keeps_turns)
    engine = Engine(runner, limits, threads=threads, turns=shared)
    _log.info(
        "loaded %s: %.0f M parameters, %s%s on %s, a cache of %d tokens (%.0f MB), in %.1f s",
        folder.model_id, loaded.parameter_count / 1e6, loaded.dtype,
        "" if loaded.weights == "full" else f" with {loaded.weights} weights", loaded.device, runner.cache.capacity,
        runner.cache.capacity * runner.cache.shape.bytes / 1e6, time.perf_counter() - started,
    )  # fmt: skip
    if group is not None:
        _log.info("rank 0 leads %d processes; each has such a part of the cache", group.place.world)
    return ServedModel(
        engine, loaded, folder.model_id, folder.revision, tokenizer.fingerprint, Grammars(tokenizer), group
    )


def _with_ids_below(loaded: LoadedModel, size: int, model_id: str) -> LoadedModel:
    if size >= loaded.vocabulary_size:
        return loaded
    try:
        sayable = None if loaded.sayable is None else loaded.sayable.below(size)
    except ValueError as error:
        raise UnsupportedModelError(f"{model_id}: {error}, as its tokenizer's are") from error
    return replace(loaded, vocabulary_size=size, sayable=sayable)


def _runner(
    loaded: LoadedModel, group: Leader | None, cache_bytes: int | None, gpu_share: float, *, exits: bool
) -> ModelRunner:
    if exits:
        from tandem.inference.exits import ExitRunner

        return ExitRunner(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
    if loaded.is_fed:
        from tandem.inference.feeding import FedRunner

        return FedRunner(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
    if group is None:
        return ModelRunner(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)
    from tandem.inference.parallel.leader import LeaderRunner

    return LeaderRunner(loaded, group, cache_bytes=cache_bytes, gpu_share=gpu_share)
