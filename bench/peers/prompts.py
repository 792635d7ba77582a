"""Which prompts are completed, as tokens, and how each turn opens them anew."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from bench.peers.side import Ids
from bench.prompts import Prompt, read_prompts
from tandem.tokenization import Tokenizer

# An opening is so many tokens long, and made of so many different ones.
_LENGTH, _OPENERS = 5, 6
_SPACE = " \n\t"


def spread(files: Sequence[Path], count: int) -> list[Prompt]:
    """The first prompts of each file in turn, `count` together. Raises OSError or ValueError."""
    columns = itertools.zip_longest(*(read_prompts(path, count) for path in files))
    prompts = [prompt for column in columns for prompt in column if prompt is not None][:count]
    if len(prompts) < count:
        names = ", ".join(map(str, files))
        raise ValueError(f"{count} prompts are needed (--count, or the most --clients); {names}: {len(prompts)}")
    return prompts


def encode(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """As a service would. Raises TokenizationError."""
    if prompt.raw:
        return tokenizer.encode(prompt.text)
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])


class Openings:
    """White space for the front of prompts, other in each turn, so that no engine has their beginnings in its cache.

    Sides complete the same prompts, several of them on the same engine and in every repetition: one with a cache of
    prefixes would read a prompt once where others read it each time. So, all read all.
    """

    def __init__(self, tokenizer: Tokenizer, turns: int) -> None:
        """turns: how many are needed. Raises ValueError where the tokenizer has not so many."""
        self._tokenizer = tokenizer
        openers = _openers(tokenizer)
        if turns > len(openers) ** _LENGTH:
            raise ValueError(f"{turns} turns are more than prompts can be opened anew for; take fewer with --repeat")
        self._all = itertools.product(openers, repeat=_LENGTH)

    def next(self) -> list[int]:
        """What no turn before has opened with."""
        return list(next(self._all))

    def open(self, prompt: Ids, opening: Ids) -> list[int]:
        """Behind a begin-of-text token, which some models cannot do without: a special token before another one."""
        begins = len(prompt) > 1 and not any(self._tokenizer.is_shown(token) for token in prompt[:2])
        return [*prompt[:begins], *opening, *prompt[begins:]]


def _openers(tokenizer: Tokenizer) -> list[int]:
    """Tokens of white space alone; any that are shown where there are hardly any of those."""
    shown = [token for token in range(tokenizer.vocabulary_size) if tokenizer.is_shown(token)]
    spaces = (token for token in shown if (text := tokenizer.decode([token])) and not text.strip(_SPACE))
    found = list(itertools.islice(spaces, _OPENERS))
    return found if len(found) > 2 else shown[:_OPENERS]
