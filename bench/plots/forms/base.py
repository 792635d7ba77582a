"""What all forms have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Form(BaseModel):
    """Numbers are finite; entries that nothing here reads are passed over."""

    model_config = ConfigDict(allow_inf_nan=False, frozen=True)
