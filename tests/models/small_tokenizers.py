"""Tokenizers that are not the embedded model's: a sentencepiece-like one, whose spaces depend on what comes before."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from tandem.tokenization import Tokenizer

WORDS = ["▁", "▁a", "▁bc", "d", "é", "▁€", "\ufffd"]
#: Ids of the pieces of `byte_fallback_tokenizer`: bytes, then WORDS, then the special token `<s>`.
WORD = {word: 256 + index for index, word in enumerate(WORDS)}
SPECIAL = 256 + len(WORDS)


def byte_fallback_tokenizer() -> Tokenizer:
    """As Llama 2's and Mistral's: ids 0 to 255 are bytes, `▁` is a space, the text's first space is not shown."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | WORD
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>"])
    assert inner.token_to_id("<s>") == SPECIAL
    return Tokenizer(inner, template=None, special={}, ends=())


def bpe(
    vocab: dict[str, int] | None = None,
    merges: list[tuple[str, str]] | None = None,
    added: list[AddedToken] | None = None,
    **facts: Any,
) -> Tokenizer:
    """A small BPE tokenizer to change one thing of."""
    vocab = vocab or {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges or [("a", "b"), ("b", "c")], **facts))
    inner.add_tokens(added or [AddedToken("<end>", special=True)])
    return Tokenizer(inner, template=None, special={}, ends=())
