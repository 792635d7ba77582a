"""Text to tokens and back, without torch: the orchestrator runs where no model does."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self

import tokenizers
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TokenizationError(Exception):
    """A folder has no tokenizer that can be used, or a conversation does not fit its chat template."""


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, template: str | None, special: Mapping[str, str], ends: Iterable[int]
    ) -> None:
        """template: the chat template in Jinja; special: names such as `bos_token` for use in it; ends: end tokens."""
        self._tokenizer = tokenizer
        self._special = dict(special)
        self._template = _environment().from_string(template) if template is not None else None
        self.end_token_ids = frozenset(ends)

    @classmethod
    def from_folder(cls, path: Path) -> Self:
        """Reads tokenizer.json and what lies beside it. Raises TokenizationError."""
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception, for a missing file as for a broken one
            raise TokenizationError(f"{path} has no tokenizer.json that can be used: {error}") from error
        config = _read_json(path / "tokenizer_config.json")
        template_file = path / "chat_template.jinja"
        template = template_file.read_text() if template_file.is_file() else config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        special = {name: _content(config[name]) for name in names if config.get(name)}
        try:
            return cls(tokenizer, template=template, special=special, ends=_ends(path, tokenizer, special))
        except TemplateError as error:
            raise TokenizationError(f"the chat template of {path} cannot be used: {error}") from error

    @property
    def vocabulary_size(self) -> int:
        """Tokens that there are, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over all that decides which ids a text has, wherever the tokenizer is stored."""
        parts = json.loads(self._tokenizer.to_str())
        model = parts["model"]
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
        content = [
            vocabulary,
            [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()],
            [(token["id"], token["content"], token["special"]) for token in parts["added_tokens"]],
            parts["normalizer"],
            parts["pre_tokenizer"],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it is: special tokens in it are recognised, none is added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; bytes that are no text appear as U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation up to where the model's answer begins. Raises TokenizationError."""
        if self._template is None:
            raise TokenizationError("the model has no chat template; send text or tokens")
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, **self._special)
        except (TemplateError, TypeError) as error:
            raise TokenizationError(f"the chat template refuses the conversation: {error}") from error
        return self.encode(text)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None


class IncrementalDecoder:
    """Decodes a growing sequence; what has been given out never changes and never ends inside a character.

    Only the last few tokens are decoded again, so a push costs the same however long the text is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens already given out, which the next ones' text depends on (spaces)
        self._pending: list[int] = []

    def push(self, token_ids: Iterable[int]) -> str:
        """Text that these tokens complete."""
        self._pending.extend(token_ids)
        text = self._text(self._context, self._pending)
        if not text.endswith("\ufffd"):
            self._context, self._pending = self._pending, []
            return text
        # The beginning of a character, most likely.
        return "" if len(self._pending) < _LONGEST_CHARACTER else self._settled(text)

    def flush(self) -> str:
        """The rest at the end; bytes that never became a character appear as U+FFFD."""
        text = self._text(self._context, self._pending)
        self._context, self._pending = self._pending or self._context, []
        return text

    def _settled(self, text: str) -> str:
        """What no later token can change of the pending `text`: bytes that are no characters go on and on.

        Cut in the middle of a character, both parts show one U+FFFD more than the whole.
        """
        for cut in range(len(self._pending) - 1, 0, -1):
            first, rest = self._pending[:cut], self._pending[cut:]
            settled = self._text(self._context, first)
            if settled + self._tokenizer.decode(rest) == text:
                self._context, self._pending = first, rest
                return settled
        self._context, self._pending = self._pending, []
        return text

    def _text(self, context: list[int], token_ids: list[int]) -> str:
        before = self._tokenizer.decode(context)
        return self._tokenizer.decode(context + token_ids)[len(before) :]


# Tokens that may be pending before it is asked what they can still become: a character has at most four bytes.
_LONGEST_CHARACTER = 8


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders chat templates, so that theirs work unchanged."""

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    return environment


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise TokenizationError(f"{path} is not JSON: {error}") from error


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _ends(path: Path, tokenizer: tokenizers.Tokenizer, special: Mapping[str, str]) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(path / name).get("eos_token_id")
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    end = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return [] if end is None else [end]
