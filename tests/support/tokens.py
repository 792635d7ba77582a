"""A tokenizer whose ids are bytes, for tests where text must be known down to the byte."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tandem.tokenization import Tokenizer

END = 0


def byte_tokenizer(vocabulary: int = 257, *, template: str | None = None, ends: tuple[int, ...] = ()) -> Tokenizer:
    """Token 0 is `<end>`, token 1 + b stands for byte b; cut to the first `vocabulary` tokens."""
    symbol = byte_symbols()
    vocab = {"<end>": 0} | {symbol[value]: value + 1 for value in range(256)}
    vocab = {token: number for token, number in vocab.items() if number < vocabulary}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    return Tokenizer(inner, template=template, special={"eos_token": "<end>"}, ends=ends)


def byte_symbols() -> dict[int, str]:
    """How a byte-level vocabulary writes each byte: printable ones as themselves, the others upwards from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    symbol = {value: chr(value) for value in printable} | {value: chr(256 + i) for i, value in enumerate(others)}
    assert set(symbol.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return symbol


def ids(text: str) -> list[int]:
    """Tokens of `text` under `byte_tokenizer`."""
    return [byte + 1 for byte in text.encode()]
