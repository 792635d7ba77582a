"""How processes that were started apart come to be one group, before any of them loads weights."""

from __future__ import annotations

import platform

import torch
import transformers

from tandem import __version__
from tandem.inference.loading import check_shards
from tandem.inference.parallel.group import Follower, Leader
from tandem.inference.parallel.member import own_device
from tandem.inference.parallel.place import Place
from tandem.models import ModelFolder


def lead(place: Place, folder: ModelFolder, *, dtype: str, device: str, weights: str) -> Leader:
    """Waits for all others and compares. Raises GroupError, UnsupportedModelError or ModelError."""
    check_shards(folder, weights=weights, shards=place.world)
    return Leader(place, own_device(device, place), _facts(folder, dtype))


def join(place: Place, folder: ModelFolder, *, dtype: str, device: str, weights: str) -> Follower:
    """As `lead`, for every other rank."""
    check_shards(folder, weights=weights, shards=place.world)
    return Follower(place, own_device(device, place), _facts(folder, dtype))


def _facts(folder: ModelFolder, dtype: str) -> dict[str, str]:
    """What has to be the same in all processes."""
    return {
        "the model": f"{folder.model_id} {folder.revision}".strip(),
        "--dtype": dtype,
        "Tandem's version": __version__,
        "torch's version": torch.__version__.partition("+")[0],
        "transformers' version": transformers.__version__,
        "the processor": platform.machine(),
    }
