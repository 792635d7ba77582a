"""The fingerprint is the same for the same tokenizer and another wherever some text would get other ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from tandem.tokenization import Tokenizer
from tests.models.small_tokenizers import bpe

VOCABULARY = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}
END = AddedToken("<end>", special=True)


def test_it_does_not_depend_on_where_and_how_the_tokenizer_is_stored(
    embedded_folder: Path, embedded_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    content = json.loads((embedded_folder / "tokenizer.json").read_text("utf-8"))
    # As older releases wrote them: merges as text; an order of keys of its own.
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=True, indent=2), "utf-8")
    assert Tokenizer.from_folder(tmp_path).fingerprint == embedded_tokenizer.fingerprint


def test_it_does_not_depend_on_the_template_and_the_end_tokens() -> None:
    inner = tokenizers.Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    plain = Tokenizer(inner, template=None, special={}, ends=())
    chat = Tokenizer(inner, template="{{ messages }}", special={"eos_token": "a"}, ends=(1,))
    assert plain.fingerprint == chat.fingerprint


CHANGED = {
    "a token more": bpe(VOCABULARY | {"d": 5}),
    "two tokens exchanged": bpe(VOCABULARY | {"ab": 4, "bc": 3}),
    "the order of merges": bpe(merges=[("b", "c"), ("a", "b")]),
    "a merge less": bpe(merges=[("a", "b")]),
    "an added token more": bpe(added=[END, AddedToken("<other>", special=True)]),
    "an added token of another name": bpe(added=[AddedToken("<fin>", special=True)]),
    "an added token that is not special": bpe(added=[AddedToken("<end>", special=False)]),
    "an added token that takes spaces with it": bpe(added=[AddedToken("<end>", special=True, lstrip=True)]),
    "whole words before merges": bpe(ignore_merges=True),
    "an unknown token": bpe(unk_token="c"),
    "bytes for what is unknown": bpe(byte_fallback=True),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_change_of_the_ids_changes_it(change: str) -> None:
    assert CHANGED[change].fingerprint != bpe().fingerprint


def test_the_same_tokenizer_made_twice_has_it_twice() -> None:
    assert bpe().fingerprint == bpe().fingerprint
    assert len(bytes.fromhex(bpe().fingerprint)) == 32


def test_all_that_lies_before_and_in_the_model_counts() -> None:
    def fingerprint(scores: float = -1.0, **parts: object) -> str:
        inner = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("aa", scores)], unk_id=0))
        for name, part in parts.items():
            setattr(inner, name, part)
        return Tokenizer(inner, template=None, special={}, ends=()).fingerprint

    found = [
        fingerprint(),
        fingerprint(-5.0),
        fingerprint(normalizer=normalizers.Lowercase()),
        fingerprint(pre_tokenizer=pre_tokenizers.Whitespace()),
        bpe().fingerprint,
    ]
    assert len(set(found)) == len(found)
