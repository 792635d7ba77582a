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
from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
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
        environment = _environment()
        self._template = environment.from_string(template) if template is not None else None
        parsed = environment.parse(template or "")
        self._variables = meta.find_undeclared_variables(parsed)
        self._skipped = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.end_token_ids = frozenset(ends)

    @classmethod
    def from_folder(cls, path: Path) -> Self:
        """Reads tokenizer.json and what lies beside it. Raises TokenizationError."""
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception, for a missing file as for a broken one
            raise TokenizationError(f"{path} has no tokenizer.json that can be used: {error}") from error
        config = _read_json(path / "tokenizer_config.json")
        template = _read_template(path / "chat_template.jinja") or config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
        special = {name: _content(config[name]) for name in names if config.get(name)}
        try:
            return cls(tokenizer, template=template, special=special, ends=_ends(path, tokenizer, special))
        except TemplateError as error:
            raise TokenizationError(f"the chat template of {path} cannot be used: {error}") from error

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over all that decides which ids a text has, wherever the tokenizer is stored."""
        parts = json.loads(self._tokenizer.to_str())
        model = parts["model"]
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
        content = [
            vocabulary,
            # None, false and "" are the same here: which one is stored depends on the library's release.
            {name: model.get(name) or None for name in _MODEL_FACTS},
            [entry[1] for entry in model["vocab"]] if model["type"] == "Unigram" else [],
            [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()],
            [sorted(token.items()) for token in parts["added_tokens"]],
            parts["normalizer"],
            parts["pre_tokenizer"],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The tokenizer as `tokenizer.json` has it."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it is: special tokens in it are recognised, none is added."""
        # As a batch of one: unlike `encode` it lets other threads run meanwhile, and it leaves out offsets.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`, special tokens left out unless told otherwise; bytes that are no text appear as U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation up to where the model's answer begins.

        tools: functions that the model may call, as OpenAI describes them. arguments: more variables of the template.
        Raises TokenizationError, also for tools or arguments that the template does not use.
        """
        if self._template is None:
            raise TokenizationError("the model has no chat template; send text or tokens")
        given = {**({"tools": 1} if tools else {}), **(arguments or {})}
        for name in given:
            if name not in self._variables:
                raise TokenizationError(f"the model's chat template does not use {name!r}")
        variables: dict[str, Any] = {"documents": None, "add_generation_prompt": True, **self._special}
        variables |= {**(arguments or {}), "tools": list(tools) if tools else None, "messages": list(messages)}
        try:
            text = self._template.render(variables)
        except Exception as error:  # a template is a program
            raise TokenizationError(f"the chat template refuses the conversation: {error}") from error
        return self.encode(text)

    def is_shown(self, token_id: int) -> bool:
        """Whether the token may be part of the text: it is in the vocabulary and is not special."""
        return token_id not in self._skipped and self._tokenizer.id_to_token(token_id) is not None

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Those that are not part of a text."""
        return frozenset(self._skipped)

    @cached_property
    def opening_ids(self) -> tuple[int, ...]:
        """Special tokens that the tokenizer itself puts before a text of its own; mostly none, or one that says that a
        text begins."""
        ids = self._tokenizer.encode("a").ids
        return tuple(ids[: next((at for at, number in enumerate(ids) if number not in self._skipped), 0)])

    def pieces(self) -> dict[str, int]:
        """Ids of all tokens, added ones included, by how the vocabulary writes them."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None


class IncrementalDecoder:
    """Decodes a growing sequence; what has been given out never changes and never ends inside a character.

    Only the last few tokens are decoded again, so a token costs the same however long the text is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens already given out, which the next ones' text depends on (spaces)
        self._pending: list[int] = []

    def push(self, token_ids: Iterable[int]) -> str:
        """Text that these tokens complete."""
        return "".join([self._push(token) for token in token_ids if self._tokenizer.is_shown(token)])

    def flush(self) -> str:
        """The rest at the end; bytes that never became a character appear as U+FFFD."""
        return self._release(len(self._pending))

    def _push(self, token_id: int) -> str:
        self._pending.append(token_id)
        decode = self._tokenizer.decode
        if not decode(self._pending).endswith("\ufffd"):
            return self._release(len(self._pending))
        # The beginning of a character, most likely. If nothing was settled for so long, it is bytes that are no text;
        # the last ones may still begin a character. Where one is cut in two, both halves together have more U+FFFD.
        if len(self._pending) < _LONGEST_WAIT:
            return ""
        whole, cuts = decode(self._pending), range(_LONGEST_WAIT - 3, 0, -1)
        good = (cut for cut in cuts if decode(self._pending[:cut]) + decode(self._pending[cut:]) == whole)
        return self._release(next(good, cuts[0]))

    def _release(self, count: int) -> str:
        """Text of the first `count` pending tokens, which are the context of the following ones from now on."""
        tokens, self._pending = self._pending[:count], self._pending[count:]
        decode = self._tokenizer.decode
        before, whole = decode(self._context), decode(self._context + tokens)
        # With bytes as tokens, invalid ones make their neighbours invalid too, but what was given out stays.
        text = whole[len(before) :] if whole.startswith(before) else decode(tokens)
        # Tokens without text of their own are context all the same: a first space that only the next token shows.
        self._context = tokens if text else (self._context + tokens)[-_LONGEST_WAIT:]
        return text


# Pending tokens after which some are released in any case. A character has at most four bytes, so it is the last three
# tokens at most that can still become one.
_LONGEST_WAIT = 8

# What besides vocabulary, merges and scores decides which ids a model of the tokenizers library gives.
_MODEL_FACTS = (
    "type", "unk_token", "unk_id", "byte_fallback", "fuse_unk", "ignore_merges",
    "continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word",
)  # fmt: skip


class _Generation(Extension):
    """`{% generation %}` marks for training what the assistant said; here only its content counts."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders chat templates, so that theirs work unchanged."""

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    extensions = [_Generation, loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    return environment


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise TokenizationError(f"{path} is not JSON: {error}") from error


def _read_template(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TokenizationError(f"{path} is not text: {error}") from error


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _ends(path: Path, tokenizer: tokenizers.Tokenizer, special: Mapping[str, str]) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(path / name).get("eos_token_id")
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    end = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return [] if end is None else [end]
