"""What a text has to be, token by token: grammars, by llguidance, without torch.

A token that cannot go on in the grammar has probability 0, in the draft and in the target alike, before top-k, top-p
and min-p look at the rest: the law of the text is the model's, each token's renormalised over those that may follow.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from tandem.tokenization import Tokenizer
from tandem.v1 import grammar_pb2

# Bytes of a grammar.
_LARGEST = 256 * 1024
_MOST_CHOICES = 1024
# White space in JSON between two symbols. Without a bound a model may go on with it for ever.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,24}"}


class GrammarError(ValueError):
    """A grammar that cannot be followed, or a text that does not follow it. field: below the grammar's own path."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Grammars:
    """Makes matchers for one tokenizer. Slow to build (a quarter of a second), so that is left to the first use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        self._lock = threading.Lock()
        self._built: LLTokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self._source

    def check(self, grammar: grammar_pb2.Grammar) -> None:
        """Raises GrammarError for a grammar that cannot be followed."""
        text = _compiled(grammar)
        failed, messages = LLMatcher.validate_grammar_with_warnings(text, self._tokenizer())
        if failed:
            raise GrammarError(_kind(grammar), " ".join(messages[0].split()))

    def matcher(self, grammar: grammar_pb2.Grammar, ends: Iterable[int]) -> Matcher:
        """ends: tokens that may end the text where the grammar allows it. Raises GrammarError."""
        inner = LLMatcher(self._tokenizer(), _compiled(grammar), log_level=0)
        if inner.is_error():
            raise GrammarError(_kind(grammar), _first_line(inner.get_error()))
        return Matcher(inner, frozenset(ends))

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for; empty for a special one."""
        return self._tokenizer().decode_bytes([token_id]) if self._source.is_shown(token_id) else b""

    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._built is None:
                # It wants an end of its own; which tokens end a text is `Matcher`'s matter.
                ends = sorted(self._source.end_token_ids)
                self._built = LLTokenizer(self._source.to_json(), self._source.vocabulary_size, ends or None)
            return self._built


class Matcher:
    """Follows one text through its grammar; goes back where the text does."""

    def __init__(self, inner: LLMatcher, ends: frozenset[int]) -> None:
        self._inner = inner
        self._ends = ends
        self._text: list[int] = []

    def masks(self, text: Sequence[int], candidates: Sequence[int]) -> list[np.ndarray | None]:
        """Which tokens may follow `text` and each beginning of `candidates`: bool [V], V of the tokenizer, one more
        than candidates. None where anything may: after an end, and after a candidate that may not be there, since
        nothing that follows one is ever used.

        Raises GrammarError where `text` itself does not follow the grammar.
        """
        if not self._follow(text):
            return [None] * (len(candidates) + 1)
        masks: list[np.ndarray | None] = [self._mask()]
        for candidate in candidates:
            known = masks[-1]
            if known is None or candidate in self._ends or candidate >= len(known) or not known[candidate]:
                masks += [None] * (len(candidates) + 1 - len(masks))
                break
            self._consume(candidate)
            masks.append(self._mask())
        return masks

    def _follow(self, text: Sequence[int]) -> bool:
        """Comes to stand behind `text`; whether it has not ended. What both have in common is not read again."""
        ended = bool(text) and text[-1] in self._ends
        body = text[:-1] if ended else text
        common = len(self._text)
        if list(body[:common]) != self._text:
            pairs = zip(self._text, body, strict=False)
            common = next((at for at, (one, other) in enumerate(pairs) if one != other), min(common, len(body)))
        if common < len(self._text):
            self._inner.rollback(len(self._text) - common)
            del self._text[common:]
        for token in body[common:]:
            # Asked first: a token that does not fit would break the matcher for good.
            if token in self._ends or not self._inner.validate_tokens([token]):
                raise GrammarError("", f"token {token} at {len(self._text)} does not follow the grammar")
            self._consume(token)
        return not ended

    def _consume(self, token: int) -> None:
        self._inner.consume_token(token)
        self._text.append(token)
        self._check()

    def _mask(self) -> np.ndarray:
        packed = np.frombuffer(self._inner.compute_bitmask(), dtype=np.uint8)
        self._check()
        mask = np.unpackbits(packed, bitorder="little").view(bool)
        mask[[end for end in self._ends if end < len(mask)]] = self._inner.is_accepting()
        return mask

    def _check(self) -> None:
        if self._inner.is_error():
            raise GrammarError("", _first_line(self._inner.get_error()))


def _compiled(grammar: grammar_pb2.Grammar) -> str:
    """As llguidance takes it. Raises GrammarError."""
    kind = _kind(grammar)
    if not kind:
        raise GrammarError("kind", "is needed: set json_schema, regex, lark, choices or json_object")
    if grammar.ByteSize() > _LARGEST:
        raise GrammarError(kind, f"has {grammar.ByteSize()} bytes; at most {_LARGEST}")
    match kind:
        case "json_schema":
            return _json(grammar.json_schema)
        case "json_object":
            return _json('{"type": "object"}')
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.regex)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.lark)
    texts = grammar.choices.texts
    if not 1 <= len(texts) <= _MOST_CHOICES:
        raise GrammarError("choices.texts", f"has {len(texts)} texts; it needs 1 to {_MOST_CHOICES}")
    if "" in texts:
        raise GrammarError(f"choices.texts[{list(texts).index('')}]", "is empty")
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in texts))


def _json(schema: str) -> str:
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise GrammarError("json_schema", f"is not JSON: {error}") from error
    if not isinstance(parsed, dict | bool):
        raise GrammarError("json_schema", "must be a JSON object")
    try:
        return LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_OPTIONS)
    except (ValueError, RecursionError) as error:
        raise GrammarError("json_schema", _first_line(str(error))) from error


def _kind(grammar: grammar_pb2.Grammar) -> str:
    return grammar.WhichOneof("kind") or ""


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
