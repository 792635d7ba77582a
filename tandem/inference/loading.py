"""From a model's folder to a model that is ready to run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from tandem.inference.loaded import LoadedModel, UnsupportedModelError
from tandem.models import ModelCorruptError, ModelError, ModelFolder, ModelNotFoundError, resolve
from tandem.models.quantise import dequantise
from tandem.models.reference import GRAFT

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_model(folder: ModelFolder, *, dtype: str = "bfloat16", device: str = "auto") -> LoadedModel:
    """Loads a model for inference. Code that comes with a model is never run.

    dtype: `bfloat16`, `float32`, or `auto` for the one it was saved in. device: `auto` (CUDA where there is one),
    `cpu`, `cuda` or `cuda:N`. Raises ModelCorruptError, ModelNotFoundError, ModelError or UnsupportedModelError.
    """
    logging.disable_progress_bar()
    place = _device(device)
    try:
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelCorruptError(f"{folder.model_id}: its config cannot be used: {_first_line(error)}") from error
    kind = _DTYPES.get(dtype) or config.get_text_config().dtype or torch.bfloat16
    try:
        graft = folder.path / GRAFT
        model = _grafted(folder.path, config, kind) if graft.is_file() else _plain(folder.path, kind)
        model = model.to(place).eval().requires_grad_(False)
    except (SafetensorError, RuntimeError, OSError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise ModelError(f"{folder.model_id} does not fit the memory of {place}") from error
        raise ModelCorruptError(f"{folder.model_id}: its weights cannot be read: {_first_line(error)}") from error
    except (ValueError, ImportError) as error:
        raise UnsupportedModelError(f"{folder.model_id} cannot be loaded: {_first_line(error)}") from error
    text_config = config.get_text_config()
    return LoadedModel(
        model=model,
        vocabulary_size=text_config.vocab_size,
        context_length=text_config.max_position_embeddings,
        dtype=str(kind).removeprefix("torch."),
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        end_token_ids=_end_tokens(folder.path, config),
        device=place,
    )


def _device(name: str) -> torch.device:
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    return device


def _plain(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False, use_safetensors=True)


def _grafted(path: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A draft of own layers whose embedding (and output layer) is that of its base model."""
    facts = json.loads((path / GRAFT).read_text())
    base = resolve(facts["base"], facts.get("revision"))
    weights = dequantise(load_file(path / facts["weights"]), dtype)
    weights["model.embed_tokens.weight"] = _tensor(base.path, "model.embed_tokens.weight").to(dtype)
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = _tensor(base.path, "lm_head.weight").to(dtype)
    # Straight into the given tensors: no memory for, and no time on, weights that would be replaced.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    left = [name for name in missing if name != "lm_head.weight" or not config.tie_word_embeddings]
    if left or unexpected:
        raise ModelCorruptError(f"{path}: weights do not fit config.json: {(left + list(unexpected))[0]}")
    _compute_buffers(model, config)
    return model


def _compute_buffers(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Buffers that no file holds (rotary frequencies) were left without values on the meta device."""
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            parent: nn.Module = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], type(module)(config=config))


def _tensor(path: Path, name: str) -> Tensor:
    """One tensor of a folder of safetensors, without reading the others."""
    index = path / "model.safetensors.index.json"
    file = json.loads(index.read_text())["weight_map"][name] if index.is_file() else "model.safetensors"
    with safe_open(path / file, framework="pt") as tensors:
        return tensors.get_tensor(name)


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
    graft = folder.path / GRAFT
    if not graft.is_file():
        return folder.path
    facts = json.loads(graft.read_text())
    return resolve(facts["base"], facts.get("revision")).path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = ["LoadedModel", "ModelNotFoundError", "load_model", "tokenizer_folder"]
