"""Puts a completion together from its pieces."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.client.accounts import RoundAccount, TokenAccount, TokenLogProbability
from tandem.client.answers import Choice, Completion, Delta
from tandem.client.reports import Finish


@dataclass(slots=True)
class _Growing:
    """A choice that has not ended."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    tokens: list[TokenAccount] = field(default_factory=list)
    rounds: list[RoundAccount] = field(default_factory=list)
    log_probabilities: list[TokenLogProbability] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.tokens.extend(delta.tokens)
        self.log_probabilities.extend(delta.log_probabilities)
        if delta.round is not None:
            self.rounds.append(delta.round)
        if delta.finish is not None:
            self.finish = delta.finish

    def ended(self) -> Choice:
        if self.finish is None:
            raise ValueError("the completion has not ended")
        return Choice(
            text="".join(self.text),
            token_ids=tuple(self.token_ids),
            tokens=tuple(self.tokens),
            rounds=tuple(self.rounds),
            log_probabilities=tuple(self.log_probabilities),
            finish=self.finish,
        )


class Gathering:
    """All pieces so far."""

    def __init__(self) -> None:
        self._choices: dict[int, _Growing] = {}
        self._request_id = ""
        self._prompt_token_ids: tuple[int, ...] = ()

    def add(self, delta: Delta) -> None:
        self._request_id = delta.request_id
        self._prompt_token_ids += delta.prompt_token_ids
        self._choices.setdefault(delta.choice, _Growing()).add(delta)

    def text(self, choice: int = 0) -> str:
        """So far."""
        return "".join(self._choices[choice].text) if choice in self._choices else ""

    def completion(self) -> Completion:
        """Raises ValueError where a choice has not ended."""
        if not self._choices:
            raise ValueError("the completion has not begun")
        choices = tuple(self._choices[number].ended() for number in sorted(self._choices))
        return Completion(self._request_id, self._prompt_token_ids, choices)
