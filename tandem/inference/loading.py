"""From a model's folder to a model that is ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    __version__,
)
from transformers.utils import logging

from tandem.inference.cut_head import spread_logits
from tandem.inference.grafts import cpu_weights, is_fed, load_graft, read_graft
from tandem.inference.loaded import LoadedModel
from tandem.inference.precision import quantise
from tandem.models import (
    ModelCorruptError,
    ModelError,
    ModelFolder,
    ModelNotFoundError,
    UnsupportedModelError,
    resolve,
)
from tandem.models.reference import GRAFT
from tandem.sayable import Sayable

# How weights are called that torch saves by itself.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_model(
    folder: ModelFolder, *, dtype: str = "bfloat16", device: str = "auto", weights: str = "full", shards: int = 1
) -> LoadedModel:
    """Loads a model for inference. Code that comes with a model is never run.

    dtype: `bfloat16`, `float32`, or `auto` for the one it was saved in. device: `auto` (CUDA where there is one),
    `cpu`, `cuda` or `cuda:N`. weights: `full`, or `int8` or `int4` (see `quantise`), or `auto` for what the folder of a
    draft says to run it with on a CPU, and `full` elsewhere. shards: how many processes the
    weights are split over, of which this is one (see `parallel`); `check_shards` comes first. Raises ModelCorruptError,
    ModelNotFoundError, ModelError or UnsupportedModelError.
    """
    logging.disable_progress_bar()
    place = _device(device)
    config = _config(folder)
    if weights == "auto":
        weights = cpu_weights(folder) if place.type == "cpu" and shards == 1 else "full"
    kind: torch.dtype = _DTYPES.get(dtype) or config.get_text_config().dtype or torch.bfloat16  # type: ignore[assignment]
    try:
        token_ids, fed = None, False
        if (folder.path / GRAFT).is_file():
            model, token_ids = load_graft(folder, config, kind)
            fed = is_fed(folder)
        else:
            model = _plain(folder, kind, shards)
        model = (nn.Module.to(model, place) if shards == 1 else model).eval().requires_grad_(False)
    except (SafetensorError, RuntimeError, OSError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise ModelError(f"{folder.model_id} does not fit the memory of {place}") from error
        raise ModelCorruptError(
            f"{folder.model_id}: its weights cannot be read: {_first_line(error)}; get them again"
        ) from error
    except (ValueError, ImportError) as error:
        raise UnsupportedModelError(f"{folder.model_id} cannot be loaded: {_first_line(error)}") from error
    text_config = config.get_text_config()
    if not hasattr(text_config, "max_position_embeddings"):
        raise UnsupportedModelError(f"{folder.model_id} cannot be served: its config names no max_position_embeddings")
    parameters = sum(parameter.numel() for parameter in model.parameters())  # of shards, those of the whole
    if shards > 1:
        from tandem.inference.parallel.shards import use_local_weights

        use_local_weights(model)
    if weights != "full":
        quantise(model, weights)
    sayable = None
    if token_ids is not None:
        sayable = Sayable.of(token_ids.to(place))
        spread_logits(model, sayable, text_config.vocab_size)
    return LoadedModel(
        model=model,
        vocabulary_size=text_config.vocab_size,
        context_length=text_config.max_position_embeddings,
        dtype=str(kind).removeprefix("torch."),
        parameter_count=parameters,
        end_token_ids=_end_tokens(folder.path, config),
        device=place,
        weights=weights,
        sayable=sayable,
        is_fed=fed,
    )


def vocabulary_size(folder: ModelFolder) -> int:
    """Rows of the model's output layer, by its config: no smaller than its tokenizer's vocabulary, as a rule.

    Raises ModelCorruptError or UnsupportedModelError.
    """
    return _config(folder).get_text_config().vocab_size


def check_shards(folder: ModelFolder, *, weights: str, shards: int) -> None:
    """Before a group of processes meets: raises UnsupportedModelError for what cannot be split over so many."""
    from tandem.inference.parallel.shards import check_config

    if weights not in ("auto", "full"):
        raise UnsupportedModelError(
            f"--weights {weights}: quantised layers cannot be split over {shards} processes; use --weights full"
        )
    if (folder.path / GRAFT).is_file():
        raise UnsupportedModelError(f"{folder.model_id} is a draft of a few layers: it cannot be split over processes")
    check_config(folder.model_id, _config(folder), shards)


def _device(name: str) -> torch.device:
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    return device


def _config(folder: ModelFolder) -> PretrainedConfig:
    try:
        facts, _ = PretrainedConfig.get_config_dict(folder.path)
        kind = facts.get("model_type")
        if kind is None or kind in CONFIG_MAPPING:
            return AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    except Exception as error:  # every architecture has checks of its own for what config.json says
        raise ModelCorruptError(f"{folder.model_id}: its config.json cannot be used: {_reason(error)}") from error
    raise UnsupportedModelError(
        f"{folder.model_id} cannot be loaded: transformers {__version__} has no {kind!r}"
        + (", and code that comes with a model is never run" if "auto_map" in facts else "; a newer one may")
    )


def _plain(folder: ModelFolder, dtype: torch.dtype, shards: int) -> PreTrainedModel:
    if not any(folder.path.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.path.iterdir() if path.suffix in _PICKLES)
        others = f"{pickles[0]}, a pickle, can run code and is" if pickles else "weights in other formats are"
        raise ModelNotFoundError(
            f"{folder.model_id} has no weights as safetensors in {folder.path}; {others} not read"
        )
    split: dict[str, Any] = {}
    if shards > 1:
        from tandem.inference.parallel.shards import options

        split = options(shards)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder.path, dtype=dtype, trust_remote_code=False, use_safetensors=True,
        ignore_mismatched_sizes=True, output_loading_info=True, **split,
    )  # fmt: skip
    model, report = loaded
    # What does not fit or is not there is random now.
    unfit = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if unfit:
        raise ModelCorruptError(f"{folder.model_id}: its weights do not fit config.json: {unfit[0]}; get them again")
    return model


def _end_tokens(path: Path, config: PretrainedConfig) -> tuple[int, ...]:
    try:
        ids = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        ids = None
    if ids is None:
        ids = config.get_text_config().eos_token_id
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def tokenizer_folder(folder: ModelFolder) -> Path:
    """Where the model's tokenizer lies: with a grafted draft it is its base's."""
    if not (folder.path / GRAFT).is_file():
        return folder.path
    facts = read_graft(folder)
    return resolve(facts["base"], facts.get("revision")).path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reason(error: Exception) -> str:
    """In one line; these errors say in the second what is wrong."""
    return " ".join(str(error).split()) or type(error).__name__


__all__ = ["LoadedModel", "ModelNotFoundError", "check_shards", "load_model", "tokenizer_folder", "vocabulary_size"]
