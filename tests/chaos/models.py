"""The models that a run serves: tiny ones, made on the spot, or the embedded pair; and prompts for them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tests.support.prompts import spec_bench_prompts

#: Of the tiny models; long enough for prompts whose prefill can be measured.
CONTEXT = 8192
_VOCABULARY = 257
# Of the draft's weights: it agrees with the target on most tokens and not on all.
_NOISE = 0.05
_SEED = 3
# Printable bytes, as tokens of the byte tokenizer.
_FIRST, _LAST = ord(" ") + 1, ord("~") + 1


@dataclass(frozen=True, slots=True)
class Models:
    """target, draft: as `--model` takes them. lengths: least and most tokens of a text, and of a prompt."""

    target: str
    draft: str
    is_tiny: bool
    texts: tuple[int, int]
    prompts: tuple[int, int]

    def prompt(self, source: random.Random, length: int | None = None) -> list[int] | str:
        """Tokens of a tiny model, a text for the embedded one. length: tokens; of a text, about."""
        if not self.is_tiny:
            text = source.choice(list(spec_bench_prompts().values()))
            return text if length is None else (text + " ") * (length // max(len(text) // 5, 1) + 1)
        size = length or source.randint(*self.prompts)
        return [source.randint(_FIRST, _LAST) for _ in range(size)]


def tiny_models_in(folder: Path) -> Models:
    """Those that `save_tiny_models` has saved there."""
    return Models(str(folder / "target"), str(folder / "draft"), True, texts=(30, 160), prompts=(4, 200))


def save_tiny_models(folder: Path) -> None:
    """Imports torch."""
    from transformers.utils import logging

    from tests.support.tiny import tiny_llama
    from tests.support.tokens import byte_tokenizer

    logging.disable_progress_bar()
    for name, noise in (("target", 0.0), ("draft", _NOISE)):
        path = folder / name
        tiny_llama(_SEED, vocabulary=_VOCABULARY, noise=noise, context=CONTEXT).model.save_pretrained(path)
        byte_tokenizer(_VOCABULARY)._tokenizer.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))


def embedded_models() -> Models:
    return Models("embedded:smollm2", "embedded:smollm2-draft", False, texts=(12, 40), prompts=(10, 100))


if __name__ == "__main__":
    import sys

    save_tiny_models(Path(sys.argv[1]))
