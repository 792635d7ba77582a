"""A tiny random instruct model on disk, as `tandem distil` is given one."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import LlamaForCausalLM

from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer

#: `<end>` and the bytes below 127.
VOCABULARY = 128
#: Every turn ends with the end token.
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_target(path: Path, *, template: str | None = TEMPLATE, context: int = 2048, seed: int = 3) -> LlamaForCausalLM:
    """Saves it to `path` with its tokenizer, whose ids are bytes; returns it."""
    model = tiny_llama(seed, vocabulary=VOCABULARY, context=context).model
    model.config.eos_token_id = model.generation_config.eos_token_id = 0
    model.save_pretrained(path)
    byte_tokenizer(VOCABULARY)._tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return model  # type: ignore[return-value]
