"""How the draft service is configured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator

from tandem.drafters import DRAFTERS, EARLY_EXIT, MODEL, PROMPT_LOOKUP, STAND, drafter_parts
from tandem.model_settings import ModelSettings
from tandem.settings import service_config


class DraftSettings(ModelSettings):
    """The draft service: proposes tokens that the target service verifies."""

    model_config = service_config("TANDEM_DRAFT_", "draft_service")

    port: int = Field(7001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "embedded:smollm2-draft",
        min_length=1,
        description=f"Hugging Face id, folder, GGUF file, embedded:smollm2-draft, or {PROMPT_LOOKUP}.",
    )
    drafter: str | None = Field(
        None,
        description=f"What drafts: {', '.join(DRAFTERS)}; several with + between, as {STAND}+{MODEL}: each is asked"
        f" where those before it have nothing to say. {EARLY_EXIT}: the first layers of --model, which is the target"
        f" then. Without {MODEL} or {EARLY_EXIT} no model is loaded. What --model says if unset.",
    )
    share_ngrams: bool = Field(
        False,
        description=f"Let all texts of {STAND} learn from each other. How fast a text is then tells its caller"
        " something of what others have written.",
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

    @property
    def parts(self) -> tuple[str, ...]:
        """The drafters, in the order in which they are asked."""
        return drafter_parts(self.drafter, self.model)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            parts = self.parts
        except ValueError as error:
            raise ValueError(f"--drafter (TANDEM_DRAFT_DRAFTER): {error}") from error
        if self.look_ahead_rows and parts != (MODEL,):
            raise ValueError(f"--look-ahead-rows: only --drafter {MODEL} looks ahead, alone")
        if self.share_ngrams and STAND not in parts:
            raise ValueError(f"--share-ngrams is for --drafter {STAND}")
        if EARLY_EXIT in parts and self.for_target:
            raise ValueError(f"--for-target: --drafter {EARLY_EXIT} drafts with the target itself; name it as --model")
        if EARLY_EXIT in parts and "model" not in self.model_fields_set:
            raise ValueError(f"--model: --drafter {EARLY_EXIT} needs the target's name")
        return self

    def engine_options(self) -> dict[str, Any]:
        options = super().engine_options()
        ahead_rows = self.look_ahead_rows if self.parts == (MODEL,) else 0
        return options | {"limits": replace(options["limits"], ahead_rows=ahead_rows)}
