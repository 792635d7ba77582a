"""Small tokenizers of different families, and drafts of one family for targets of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers

from draft_service.drafters.translating import TranslatingDrafter
from draft_service.pairing import Target, translating
from tandem.grammars import Grammars
from tandem.inference.engine import EngineLimits
from tandem.inference.loaded import LoadedModel
from tandem.tokenization import Tokenizer
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_symbols
from tests.support.trio import serve_model

#: The special token of every one of them.
SPECIAL = "<end>"


def byte_level(
    words: Sequence[bytes] = (), *, alphabet: Sequence[int] = range(256), seed: int = 0, ends: Sequence[str] = ()
) -> Tokenizer:
    """As GPT-2's and SmolLM2's: the bytes of `alphabet` and what leads to `words` byte by byte, ids in an order of the
    seed's. ends: of its tokens, those that end a text."""
    symbols = byte_symbols()
    words = sorted(words, key=lambda word: word[:1] != b" ")  # or a word's own merges keep its space from joining it
    pieces = ["".join(symbols[byte] for byte in word[:size]) for word in words for size in range(2, len(word) + 1)]
    vocabulary = [SPECIAL, *(symbols[byte] for byte in alphabet), *dict.fromkeys(pieces)]
    merges = dict.fromkeys((piece[:-1], piece[-1]) for piece in pieces)
    inner = tokenizers.Tokenizer(models.BPE(vocab=_in_order(vocabulary, seed), merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([SPECIAL])
    return Tokenizer(inner, template=None, special={}, ends=[inner.token_to_id(end) for end in ends])


def space_marked(words: Sequence[str] = (), *, seed: int = 0, begins: bool = False) -> Tokenizer:
    """As Gemma's and Llama 2's: a token for each byte, `▁` for a space, printable ASCII, and what leads to `words`
    character by character. begins: a special token says that a text begins."""
    words = [word.replace(" ", "▁") for word in sorted(words, key=lambda word: word[:1] != " ")]
    characters = ["▁", "\n", *map(chr, range(ord("!"), ord("~") + 1)), *"".join(words)]
    pieces = [word[:size] for word in words for size in range(2, len(word) + 1)]
    vocabulary = [SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys([*characters, *pieces])]
    merges = dict.fromkeys((piece[:-1], piece[-1]) for piece in pieces)
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=_in_order(vocabulary, seed), merges=list(merges), byte_fallback=True)
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([SPECIAL])
    if begins:
        begin = ("<begin>", inner.get_vocab_size())
        inner.add_special_tokens(["<begin>"])
        inner.post_processor = tokenizers.processors.TemplateProcessing(single="<begin> $A", special_tokens=[begin])
    return Tokenizer(inner, template=None, special={}, ends=())


def drafter_for(
    target: Tokenizer, own: Tokenizer, draft: LoadedModel, *, limits: EngineLimits | None = None
) -> TranslatingDrafter:
    """As a draft service with `--for-target` makes it."""
    served = serve_model(draft, own, "other-family", limits=limits)
    drafter = translating(served, Target("tiny", target, target.vocabulary_size, Grammars(target)))
    assert drafter is not None
    return drafter


def relabelled(loaded: LoadedModel, labels: Mapping[int, int], vocabulary: int, *, seed: int = 0) -> LoadedModel:
    """The model with its tokens at other ids, among tokens that it has never seen. labels: new id of each old one that
    is kept."""
    other = tiny_llama(seed, vocabulary=vocabulary, context=loaded.context_length)
    theirs, ours = loaded.model.state_dict(), other.model.state_dict()
    old, new = torch.tensor(list(labels)), torch.tensor(list(labels.values()))
    for name, weight in theirs.items():
        if "embed" in name or "lm_head" in name:
            ours[name][new] = weight[old]
        else:
            ours[name] = weight
    other.model.load_state_dict(ours)
    return replace(other, vocabulary_size=vocabulary)


def _in_order(pieces: Sequence[str], seed: int) -> dict[str, int]:
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed)).tolist()
    return dict(zip(pieces, order, strict=True))
