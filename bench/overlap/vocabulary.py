"""The tokenizer of a replay: its tokens have no text that matters."""

from __future__ import annotations

import tokenizers
from tokenizers import models, pre_tokenizers

from bench.overlap.recording import CLASSES
from tandem.tokenization import Tokenizer


def tokenizer() -> Tokenizer:
    """A word for each token."""
    words = {f"w{number}": number for number in range(CLASSES + 1)}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(inner, template=None, special={}, ends=())
