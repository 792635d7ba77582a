"""The tokenizer gives what transformers' own gives, and says so with its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.tokenization import TokenizationError, Tokenizer
from tests.models.checks import EMBEDDED_CHARACTERS, refused

SIZE = 49_152
#: What is easily got wrong: specials and what looks like them, marks over characters, joined emoji, spaces, controls.
PIECES = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<|im_start|", "|im_end|>", "<|IM_END|>",
    "<|im_end |>", "system\n", "👩‍👩‍👧‍👦", "🇩🇪", "é", "e\u0301", "漢字かな交じり", "한국어", "العربية",
    "\u200b", "\ufeff", "\ufffd", "\x00", "\x1b[0m", "\r\n", "\t\t", "    ", " ", "  x", "1234567", "3.14",
    "don't", "DON'T", "ǅ", "\U0010ffff", "def f(x):\n    return x",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=12).map("".join)
IDS = st.lists(st.integers(0, SIZE - 1) | st.integers(0, 20), max_size=40)


@pytest.fixture(scope="module")
def theirs(embedded_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(embedded_folder)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_text_has_the_ids_that_transformers_gives(text: str, theirs: Any, embedded_tokenizer: Tokenizer) -> None:
    ids = embedded_tokenizer.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert all(0 <= number < SIZE for number in ids)


@settings(max_examples=400, deadline=None)
@given(ids=IDS)
def test_ids_have_the_text_that_transformers_gives(
    ids: list[int], theirs: Any, embedded_tokenizer: Tokenizer
) -> None:
    assert embedded_tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=200, deadline=None)
@given(text=st.text(EMBEDDED_CHARACTERS, max_size=60))
def test_text_without_specials_comes_back(text: str, embedded_tokenizer: Tokenizer) -> None:
    assert embedded_tokenizer.decode(embedded_tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=5)
)
def test_a_conversation_has_the_ids_that_transformers_gives(
    turns: list[tuple[str, str]], theirs: Any, embedded_tokenizer: Tokenizer
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = embedded_tokenizer.apply_chat_template(messages)
    assert ids == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ids == embedded_tokenizer.encode(text)


def test_special_tokens_are_recognised_in_text_and_left_out_of_it(embedded_tokenizer: Tokenizer) -> None:
    assert embedded_tokenizer.encode("<|im_start|>") == [1]
    assert embedded_tokenizer.decode([1, *embedded_tokenizer.encode("a b"), 2]) == "a b"
    assert len(embedded_tokenizer.encode("<|im_start|")) > 1
    assert embedded_tokenizer.end_token_ids == {2}


def test_the_vocabulary_ends_where_it_says(theirs: Any, embedded_tokenizer: Tokenizer) -> None:
    assert embedded_tokenizer.vocabulary_size == len(theirs) == SIZE
    assert embedded_tokenizer.is_shown(SIZE - 1) and not embedded_tokenizer.is_shown(SIZE)
    assert not embedded_tokenizer.is_shown(1)
    check_token_ids([0, SIZE - 1], path="prompt", vocabulary_size=embedded_tokenizer.vocabulary_size)
    with pytest.raises(TandemError, match="49152"):
        check_token_ids([0, SIZE], path="prompt", vocabulary_size=embedded_tokenizer.vocabulary_size)


def test_a_model_with_more_rows_than_tokens_cannot_break_the_text(theirs: Any, embedded_tokenizer: Tokenizer) -> None:
    ids = [SIZE, *embedded_tokenizer.encode("a b"), SIZE + 100]
    assert embedded_tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "a b"


@pytest.mark.parametrize("content", [None, "", "{", '{"version": "1.0"}', "\x00" * 100])
def test_a_folder_without_a_usable_tokenizer_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with refused(TokenizationError, str(tmp_path), "has no tokenizer.json that can be used"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"])
def test_a_broken_file_beside_the_tokenizer_is_named(file: str, tmp_path: Path, embedded_folder: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(embedded_folder / "tokenizer.json")
    (tmp_path / file).write_bytes(b'{"a": \xff')
    with refused(TokenizationError, file, "is not"):
        Tokenizer.from_folder(tmp_path)
