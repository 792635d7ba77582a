"""Writes a draft as the folder that the draft service loads: own layers, and where the rest of it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import PretrainedConfig

from tandem.distil.base import Base
from tandem.distil.files import write_whole
from tandem.inference.grafts import LAYERS
from tandem.models.quantise import quantise
from tandem.models.reference import GRAFT

#: Files of the layers, by the type of their weights.
WEIGHTS = {"bfloat16": "layers.safetensors", "int8": "layers.int8.safetensors"}
GENERATION = "generation_config.json"
VOCABULARY = "vocabulary.safetensors"


def write_draft(
    folder: Path,
    config: PretrainedConfig,
    own: Mapping[str, Tensor],
    base: Base,
    token_ids: Tensor | None,
    weights: str = "int8",
    kind: str = LAYERS,
) -> None:
    """own: float32, the weights by transformers' names without embedding and output layer. token_ids: int32 [S],
    strictly rising: what the draft can say; None for the whole vocabulary. weights: `bfloat16`, or `int8` for those of
    matrices. kind: what it reads, see `grafts`.

    Each file appears whole. config.json is the last one: before it is there, nobody takes the folder for a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    layers = {name: weight.detach().cpu() for name, weight in own.items()}
    if weights == "int8":
        layers = quantise(layers)
    else:
        layers = {name: weight.to(torch.bfloat16).contiguous() for name, weight in layers.items()}
    write_whole(folder / WEIGHTS[weights], save(layers))
    facts = {"base": base.name} | ({"revision": base.revision} if base.revision else {}) | {"weights": WEIGHTS[weights]}
    if kind != LAYERS:
        facts["kind"] = kind
    if weights == "int8":
        facts |= {"quantisation": "int8-per-row", "cpu_weights": "int8"}
    if token_ids is not None:
        write_whole(folder / VOCABULARY, save({"token_ids": token_ids.to(torch.int32).cpu().contiguous()}))
        facts["vocabulary"] = VOCABULARY
    else:
        (folder / VOCABULARY).unlink(missing_ok=True)
    for other in WEIGHTS.values():
        if other != WEIGHTS[weights]:
            (folder / other).unlink(missing_ok=True)
    # Which tokens end a sequence.
    settings = base.folder.path / GENERATION
    if settings.is_file():
        write_whole(folder / GENERATION, settings.read_bytes())
    write_whole(folder / GRAFT, json.dumps(facts, indent=2) + "\n")
    config.dtype = torch.bfloat16
    write_whole(folder / "config.json", _as_json(config))


def _as_json(config: PretrainedConfig) -> str:
    """All of it, but not where the target's was read from: a folder of this machine."""
    found = json.loads(config.to_json_string(use_diff=False))
    return json.dumps({name: value for name, value in found.items() if not name.startswith("_")}, indent=2) + "\n"
