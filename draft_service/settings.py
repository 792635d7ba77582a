"""How the draft service is configured."""

from __future__ import annotations

from pydantic import Field

from tandem.model_settings import ModelSettings
from tandem.settings import service_config

#: `--model` of the drafter that copies from the prompt and the text so far.
PROMPT_LOOKUP = "prompt-lookup"


class DraftSettings(ModelSettings):
    """The draft service: proposes tokens that the target service verifies."""

    model_config = service_config("TANDEM_DRAFT_", "draft_service")

    port: int = Field(7001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "embedded:smollm2-draft",
        min_length=1,
        description=f"Hugging Face id, folder, GGUF file, embedded:smollm2-draft, or {PROMPT_LOOKUP}.",
    )
