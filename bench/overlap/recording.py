"""What a pair said once, kept for replays: the target's texts, and the draft's distributions along them.

Of each text there is the draft's distribution at every prefix, and where the draft's own next token is another than
the target's, what it goes on to say by itself from there. That is all that a block from any prefix of the text, or from
any block's own wrong turn, can hold; anything else is off the recording.

Tokens are recorded by class, `token id % CLASSES`, so that a replay has a vocabulary that costs next to nothing. Under
coupled sampling the law of a class is exactly that of its tokens, and the noise is the class's: a replay draws what was
recorded, with the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Classes of tokens. A replay's vocabulary has one token more, which no text holds.
CLASSES = 1024
FILLER = CLASSES
#: Tokens that stand for a prompt in a replay. Positions in the recording begin behind them.
PROMPT_LENGTH = 8
#: Tokens that a draft says by itself behind a wrong one.
TAIL = 16


@dataclass(frozen=True, slots=True)
class Row:
    """The draft's distribution at one prefix. tokens: by rank as the rule draws, the first is the draft's candidate.
    log_probabilities: of these, in nats. entropy: of the whole distribution, in nats."""

    tokens: Sequence[int]
    log_probabilities: Sequence[float]
    entropy: float


@dataclass(frozen=True, slots=True)
class Tail:
    """What the draft says behind a prefix where it errs. tokens: the wrong one first. rows: behind each of them."""

    tokens: Sequence[int]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Text:
    """One of the target's texts. rows: at each of its prefixes, from the prompt alone to all of it, so one more than
    tokens. tails: by the length of the prefix where the draft errs."""

    tokens: Sequence[int]
    rows: Sequence[Row]
    tails: dict[int, Tail]

    def row(self, kept: int, tail: int = 0) -> Row | None:
        """The draft's distribution behind the first `kept` tokens and `tail` tokens of the draft's own wrong turn
        from there; None where it was not recorded."""
        if not tail:
            return self.rows[kept] if kept < len(self.rows) else None
        turn = self.tails.get(kept)
        return turn.rows[tail - 1] if turn is not None and tail <= len(turn.rows) else None

    def errs(self, kept: int) -> bool:
        """Whether the draft's own next token behind the first `kept` tokens is another than the text's."""
        return self.rows[kept].tokens[0] != self.tokens[kept]

    @property
    def agreement(self) -> float:
        """Share of the tokens that the draft says too."""
        return sum(not self.errs(kept) for kept in range(len(self.tokens))) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class Recording:
    """draft: its name. temperature: 0 is greedy; above, draws are coupled under `seed`."""

    draft: str
    temperature: float
    seed: int
    texts: Sequence[Text]

    @property
    def agreement(self) -> float:
        return sum(text.agreement for text in self.texts) / len(self.texts)


def save(recording: Recording, path: Path) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(asdict(recording)), encoding="utf-8")
    scratch.rename(path)


def load(path: Path) -> Recording:
    """Raises OSError, or ValueError for what is no recording."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    try:
        texts = [_text(each) for each in plain["texts"]]
        return Recording(plain["draft"], plain["temperature"], plain["seed"], texts)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no recording: {error!r}") from error


def _text(plain: dict[str, Any]) -> Text:
    tails = {
        int(kept): Tail(tail["tokens"], [Row(**row) for row in tail["rows"]]) for kept, tail in plain["tails"].items()
    }
    return Text(plain["tokens"], [Row(**row) for row in plain["rows"]], tails)
