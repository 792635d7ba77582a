"""A model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tandem.sayable import Sayable


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """vocabulary_size: ids that may be drawn; the output layer may have more rows. context_length: most tokens of a
    sequence. dtype: as torch names it, `bfloat16` or `float32`. end_token_ids: what ends a sequence; may be empty.
    weights: of the linear layers, `int8` or `int4`; `full`: in `dtype`, as the others always are. sayable: where its
    output layer was cut, the tokens that are left; its logits are those of the whole vocabulary all the same. is_fed:
    whether it reads another model's features (see `feeding`)."""

    model: PreTrainedModel
    vocabulary_size: int
    context_length: int
    dtype: str
    parameter_count: int
    end_token_ids: tuple[int, ...]
    device: torch.device
    weights: str = "full"
    sayable: Sayable | None = None
    is_fed: bool = False
