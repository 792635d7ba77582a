"""How the target service is configured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tandem.settings import ServiceSettings, service_config


class TargetSettings(ServiceSettings):
    """The target service: verifies what drafts propose, and decodes alone when asked to."""

    model_config = service_config("TANDEM_TARGET_", "target_service")

    port: int = Field(7002, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "embedded:smollm2",
        min_length=1,
        description="Hugging Face id, folder, GGUF file or embedded:smollm2.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    dtype: Literal["bfloat16", "float32", "auto"] = Field("bfloat16", description="Type of the weights.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the model; all cores if unset.")
