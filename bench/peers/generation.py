"""The four ways of transformers' `generate`. Runs in a process of its own (see transformers_side.py)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import is_sklearn_available, logging

from bench.peers.names import ASSISTED, FIXED, LOOKUP, PLAIN
from tandem.inference.loading import load_model
from tandem.models import resolve

_FIXED_TOKENS = 3
#: Candidates of a look-up; the prompt is searched for the last two tokens, as is `generate`'s default.
LOOKUP_TOKENS = 10
# Any token: a mask says where it is.
_PAD = 0


class Generation:
    """Both models, loaded once."""

    def __init__(self, target: PreTrainedModel, draft: PreTrainedModel | None) -> None:
        self._target = target
        self._draft = draft
        # What the models' authors ask for, an end of sequence among it, would change texts and lengths: `generate`
        # fills in whatever a call leaves unset, the draft's end of sequence even where the target's is None.
        target.generation_config = GenerationConfig(pad_token_id=_PAD)
        if draft is not None:
            self._default = _schedule_alone(draft.generation_config)
            self._fixed = GenerationConfig(
                pad_token_id=_PAD,
                num_assistant_tokens=_FIXED_TOKENS,
                num_assistant_tokens_schedule="constant",
                assistant_confidence_threshold=0.0,
            )

    def describe(self) -> dict[str, str]:
        """The ways that these models can go, with how many candidates each has."""
        ways = {PLAIN: ""}
        if self._draft is not None:
            ways |= {ASSISTED: _describe(self._default), FIXED: f"{_FIXED_TOKENS} candidates"}
        return ways | {LOOKUP: f"{LOOKUP_TOKENS} candidates"}

    @torch.inference_mode()
    def generate(self, way: str, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """So many tokens for each prompt. Plain generation takes all at once; the others take one at a time, since
        `generate` refuses more."""
        options = self._options(way)
        batches = [prompts] if way == PLAIN else [[prompt] for prompt in prompts]
        return [text for batch in batches for text in self._batch(batch, tokens, options)]

    def _batch(self, prompts: Sequence[Sequence[int]], tokens: int, options: dict[str, Any]) -> list[list[int]]:
        """Side by side, the shorter ones padded on the left."""
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), _PAD)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        device = self._target.device
        output = self._target.generate(  # type: ignore[operator]
            ids.to(device), attention_mask=mask.to(device), do_sample=False, max_new_tokens=tokens, **options
        )
        return output[:, longest:].tolist()

    def _options(self, way: str) -> dict[str, Any]:
        if way == PLAIN:
            return {}
        if way == LOOKUP:
            return {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
        if self._draft is None:
            raise ValueError("there is no draft model")
        # The schedule is read from the draft's own configuration, not from the call.
        self._draft.generation_config = copy.deepcopy(self._default if way == ASSISTED else self._fixed)
        return {"assistant_model": self._draft}


def load_generation(target: str, draft: str | None, dtype: str) -> Generation:
    """Models as the services take them. Raises ModelError."""
    logging.set_verbosity_error()

    def load(name: str) -> PreTrainedModel:
        return load_model(resolve(name, None), dtype=dtype, device="auto").model

    return Generation(load(target), None if draft is None else load(draft))


def _schedule_alone(shipped: GenerationConfig | None) -> GenerationConfig:
    """How many candidates the draft's authors ask for, if they do, and nothing else of what they ask for."""
    names = ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
    return GenerationConfig(pad_token_id=_PAD, **{name: getattr(shipped, name, None) for name in names})


def _describe(schedule: GenerationConfig) -> str:
    """The default schedule in words, filled in as assisted generation fills it in."""
    filled = copy.deepcopy(schedule)
    filled.update(**filled._get_default_generation_params(), defaults_only=True)
    threshold = f"confidence threshold {filled.assistant_confidence_threshold:g}"
    if is_sklearn_available():
        threshold += f", then fitted (scikit-learn {version('scikit-learn')})"
    else:
        threshold += ", not fitted: scikit-learn is not installed"
    return f"at most {filled.num_assistant_tokens}, schedule {filled.num_assistant_tokens_schedule}, {threshold}"
