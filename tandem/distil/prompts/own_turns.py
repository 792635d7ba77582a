"""Prompts that the target writes itself: given the head of a user's turn, an instruct model goes on with what a user
would ask (Magpie, Xu et al. 2024, arXiv 2406.08464)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from tandem.distil.prompts.source import PromptError
from tandem.tokenization import TokenizationError, Tokenizer

# They have no beginning and no end in common, so that what their conversations share is the template's.
_TURNS = ("What now", "apple", "3 of 5", "(why)", "Über")
#: Most tokens of a turn: most have fewer than half as many, and hardly one that has more ends at all.
TURN_TOKENS = 128
#: At which a turn is drawn.
TEMPERATURE = 1.0


class OwnTurns:
    """head: ids of a conversation up to where the user's turn begins. ends: ids that end the turn."""

    def __init__(self, tokenizer: Tokenizer, head: Sequence[int], ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.head = list(head)
        self.ends = ends

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Raises PromptError where the target has no chat template, or one that has no token for the turn's end."""
        if not tokenizer.has_chat_template:
            raise PromptError("the target has no chat template, so it cannot write prompts itself")
        try:
            rendered = [tokenizer.apply_chat_template([{"role": "user", "content": turn}]) for turn in _TURNS]
        except TokenizationError as error:
            raise PromptError(f"the target cannot write prompts itself: {error}") from error
        head = _common(rendered)
        tail = _common([ids[len(head) :][::-1] for ids in rendered])[::-1]
        if not head or not tail or tokenizer.is_shown(tail[0]):
            raise PromptError(
                "the target cannot write prompts itself: its chat template has no token of its own that ends a turn"
            )
        return cls(tokenizer, head, frozenset({tail[0]}) | tokenizer.end_token_ids)

    def text(self, token_ids: Sequence[int]) -> str | None:
        """What a user says with the ids of a turn, the last of which may be its end; None where that is no turn: it has
        no end, no words, or special tokens in it."""
        if not token_ids or token_ids[-1] not in self.ends:
            return None
        body = token_ids[:-1]
        if not all(map(self._tokenizer.is_shown, body)):
            return None
        text = self._tokenizer.decode(body).strip()
        return text if any(map(str.isalnum, text)) and "\ufffd" not in text else None


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    """What all begin with."""
    common = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return common
