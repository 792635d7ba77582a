"""Where a training stands, on disk: whole or not at all, the last two of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_KEPT = 2
_WEIGHTS, _OPTIMISER = "weights.", "optimiser."


class CheckpointError(ValueError):
    """Checkpoints are there, and none can be used."""


@dataclass(slots=True)
class Course:
    """How far a training is. step: steps done. tokens: of answers learnt from, as often as they were. loss: of the
    `places` since the last report, summed. reports: one for each `report_steps`."""

    step: int = 0
    tokens: int = 0
    loss: float = 0.0
    places: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)


def save(folder: Path, course: Course, own: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    """own: the weights that are trained, in the order in which the optimiser has them."""
    tensors = {_WEIGHTS + name: weight.detach().cpu() for name, weight in own.items()}
    state = optimiser.state_dict()["state"]
    for name, number in zip(own, _order(optimiser), strict=True):
        tensors |= {f"{_OPTIMISER}{key}.{name}": value.cpu() for key, value in state[number].items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{course.step:08}.safetensors"
    scratch = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, {"course": _dump(course)})
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(path)
    for old in _all(folder)[:-_KEPT]:
        old.unlink()


def restore(folder: Path, own: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> Course | None:
    """Puts the latest checkpoint into weights and optimiser; None where there is none.

    One that cannot be read gives way to the one before it. Raises CheckpointError where none is left.
    """
    problem = None
    for path in reversed(_all(folder)):
        try:
            return _restore(path, own, optimiser)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            problem = problem or CheckpointError(f"{path} cannot be used: {error}; start again with --fresh")
    if problem is not None:
        raise problem
    return None


def _restore(path: Path, own: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> Course:
    with safe_open(path, framework="pt") as file:
        course = Course(**json.loads(file.metadata()["course"]))
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
    weights = {key.removeprefix(_WEIGHTS): tensor for key, tensor in tensors.items() if key.startswith(_WEIGHTS)}
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in own.items()}:
        raise ValueError("it is of another draft")
    fresh = optimiser.state_dict()
    fresh["state"] = {number: {} for number in _order(optimiser)}
    numbers = dict(zip(own, _order(optimiser), strict=True))
    for key, tensor in tensors.items():
        if key.startswith(_OPTIMISER):
            kind, _, name = key.removeprefix(_OPTIMISER).partition(".")
            fresh["state"][numbers[name]][kind] = tensor
    optimiser.load_state_dict(fresh)
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    return course


def _order(optimiser: torch.optim.Optimizer) -> list[int]:
    """How the optimiser numbers its weights, group by group."""
    return [number for group in optimiser.state_dict()["param_groups"] for number in group["params"]]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def _dump(course: Course) -> str:
    return json.dumps(asdict(course))
