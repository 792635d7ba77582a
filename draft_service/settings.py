"""How the draft service is configured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tandem.settings import ServiceSettings, service_config

#: `--model` of the drafter that copies from the prompt and the text so far.
PROMPT_LOOKUP = "prompt-lookup"


class DraftSettings(ServiceSettings):
    """The draft service: proposes tokens that the target service verifies."""

    model_config = service_config("TANDEM_DRAFT_", "draft_service")

    port: int = Field(7001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "embedded:smollm2-draft",
        min_length=1,
        description=f"Hugging Face id, folder, GGUF file, embedded:smollm2-draft, or {PROMPT_LOOKUP}.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    dtype: Literal["bfloat16", "float32", "auto"] = Field("bfloat16", description="Type of the weights.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the model; all cores if unset.")
