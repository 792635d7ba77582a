"""A completion, whole or piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.accounts import RoundAccount, TokenAccount, TokenLogProbability
from tandem.client.mirror import mirrors
from tandem.client.reports import Finish, Speculation, Usage
from tandem.v1 import completion_pb2


@mirrors(completion_pb2.CompleteResponse)
@dataclass(frozen=True, slots=True)
class Delta:
    """What one message adds to a completion.

    text: may be empty while a character or a possible stop text is incomplete. choice: which of the `n` it belongs to.
    finish: set in the last of each choice only. tokens, round: with `audit`. log_probabilities: where asked for; one
    for each of token_ids. prompt_token_ids: where asked for, in the first only.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[TokenAccount, ...]
    finish: Finish | None
    round: RoundAccount | None
    choice: int
    log_probabilities: tuple[TokenLogProbability, ...]
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` completions of a prompt, from its first token to its last. Fields as in Delta."""

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[TokenAccount, ...]
    rounds: tuple[RoundAccount, ...]
    log_probabilities: tuple[TokenLogProbability, ...]
    finish: Finish

    @property
    def usage(self) -> Usage:
        return self.finish.usage

    @property
    def speculation(self) -> Speculation:
        return self.finish.speculation


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole completion. What it says of text, tokens and end is that of its first choice, mostly the only one."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def tokens(self) -> tuple[TokenAccount, ...]:
        return self.choices[0].tokens

    @property
    def rounds(self) -> tuple[RoundAccount, ...]:
        return self.choices[0].rounds

    @property
    def log_probabilities(self) -> tuple[TokenLogProbability, ...]:
        return self.choices[0].log_probabilities

    @property
    def finish(self) -> Finish:
        return self.choices[0].finish

    @property
    def usage(self) -> Usage:
        return self.finish.usage

    @property
    def speculation(self) -> Speculation:
        return self.finish.speculation
