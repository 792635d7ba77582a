"""How the target service is configured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from tandem.model_settings import ModelSettings
from tandem.settings import service_config


class TargetSettings(ModelSettings):
    """The target service: verifies what drafts propose, and decodes alone when asked to."""

    model_config = service_config("TANDEM_TARGET_", "target_service")

    port: int = Field(7002, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "embedded:smollm2",
        min_length=1,
        description="Hugging Face id, folder, GGUF file or embedded:smollm2.",
    )
    verify_budget: str = Field(
        "0",
        pattern=r"^(auto|[0-9]{1,9})$",
        description="Candidates that one step verifies, over all callers: the likeliest to be kept (TETRIS); the others"
        " count as not submitted. 0 verifies all; auto those that are worth what they add to a step.",
    )

    def engine_options(self) -> dict[str, Any]:
        options = super().engine_options()
        weighs = self.verify_budget == "auto"
        options["limits"] = replace(
            options["limits"], candidates=0 if weighs else int(self.verify_budget), weighs_candidates=weighs
        )
        return options
