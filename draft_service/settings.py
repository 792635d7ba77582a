"""How the draft service is configured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    for_target: str | None = Field(
        None,
        min_length=1,
        description="Target that it drafts for, or a folder with its tokenizer: needed where that is another tokenizer"
        " than the draft's, which then proposes the tokens that both have.",
    )
    for_target_revision: str | None = Field(None, description="Commit, tag or branch of --for-target.")
    look_ahead_rows: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Tokens of a step up to which it is filled with blocks that nobody has asked for yet, for what may"
        " become of those that are being verified, one less for each further sequence in use; 0 drafts none. 16 on a"
        " GPU and 0 on a CPU if unset.",
    )

    def engine_options(self) -> dict[str, Any]:
        options = super().engine_options()
        return options | {"limits": replace(options["limits"], ahead_rows=self.look_ahead_rows)}
