"""What a service that runs a model has in its configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field

from tandem.settings import ServiceSettings


def _shared_file(path: Path) -> Path:
    """Before a model is loaded for nothing."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError("is no file that can be written, nor a new one in a folder that can be")
    return path


class ModelSettings(ServiceSettings):
    """The model's type and place, and how much it takes on at once. A subclass names the model."""

    revision: str | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    dtype: Literal["bfloat16", "float32", "auto"] = Field("bfloat16", description="Type of the weights.")
    weights: Literal["auto", "full", "int8", "int4"] = Field(
        "auto",
        description="Linear layers: full (in --dtype), or quantised at the start to int8 or int4 (CPU only); auto: what"
        " a draft's own folder names for the CPU, otherwise full.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the model; all cores if unset.")
    turns: Annotated[Path, AfterValidator(_shared_file)] | None = Field(
        None,
        description="File by which services that share a CPU's cores take turns, step by step; the same for all of"
        " them. Without one they compute at once, which is slower unless --threads leaves each one cores of its own.",
    )
    cache_bytes: ByteSize | None = Field(
        None,
        ge=1,
        description="Key-value cache, as 2GiB or 500MB; if unset a quarter of the CPU's memory that is available, 4 GiB"
        " at most, or --gpu-share of the GPU's.",
    )
    gpu_share: float = Field(
        0.85, gt=0, lt=1, description="Share of the GPU memory that the weights leave, for the key-value cache."
    )
    max_sessions: int = Field(256, ge=1, description="Sessions that may be open; more are told to come back.")
    max_queue: int = Field(
        64, ge=1, description="Sessions that may wait for their first step; more are told to come back."
    )
    step_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens of a step that prompts may fill up: more is quicker for them, fewer lets others wait less;"
        " 2048 on a GPU and 24 per CPU thread if unset.",
    )

    def engine_options(self) -> dict[str, Any]:
        """What `load_engine` takes besides the model's name. Imports torch."""
        from tandem.inference.engine import EngineLimits

        return {
            "dtype": self.dtype,
            "weights": self.weights,
            "device": self.device,
            "threads": self.threads,
            "cache_bytes": self.cache_bytes,
            "gpu_share": self.gpu_share,
            "turns": self.turns,
            "limits": EngineLimits(self.max_sessions, self.max_queue, self.step_tokens),
        }
