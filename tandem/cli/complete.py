"""`tandem complete`, and what `chat` and `demo` have in common with it: one completion, shown as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from tandem.cli.errors import NOT_UTF8, CliError
from tandem.cli.render import coloured, plain, to_json
from tandem.v1 import completion_pb2


@dataclass(slots=True)
class Completion:
    """A whole completion, put together from its stream. echoed: what of the text is the prompt; more: the other
    choices."""

    text: str = ""
    echoed: str = ""
    token_ids: list[int] = field(default_factory=list)
    tokens: list[completion_pb2.TokenAccount] = field(default_factory=list)
    log_probabilities: list[completion_pb2.TokenLogProbability] = field(default_factory=list)
    finish: completion_pb2.Finish = field(default_factory=completion_pb2.Finish)
    more: list[Completion] = field(default_factory=list)

    def add(self, response: completion_pb2.CompleteResponse) -> None:
        self.text += response.text
        self.token_ids.extend(response.token_ids)
        self.tokens.extend(response.tokens)
        self.log_probabilities.extend(response.log_probabilities)
        if response.HasField("finish"):
            self.finish = response.finish
        elif _is_prompt(response):
            self.echoed += response.text

    def to_json(self, *, audit: bool) -> dict[str, Any]:
        """The object of `--json`."""
        tokens = self.tokens if audit else None
        result = to_json(self.text, self.token_ids, tokens, self.finish, self.log_probabilities)
        if self.more:
            result["more_choices"] = [choice.to_json(audit=audit) for choice in self.more]
        return result


def gather(
    responses: Iterable[completion_pb2.CompleteResponse], show: Console | None, *, audit: bool
) -> Completion:
    """Reads a stream to its end. show: console to write to as it comes; None writes nothing.

    audit: show tokens in the colours of their sources.
    """
    choices: list[Completion] = []
    try:
        for response in _in_order(responses):
            if response.choice == len(choices):
                if choices and show is not None:
                    show.print(f"\n[dim]--- {len(choices) + 1} ---[/dim]")
                choices.append(Completion())
            choice = choices[response.choice]
            choice.add(response)
            if show is not None:
                _show(response, choice, show, audit)
    except BaseException:
        if show is not None and any(choice.text for choice in choices):
            show.print()  # what is said of it starts on a line of its own
        raise
    if show is not None:
        show.print()
    whole, *others = choices or [Completion()]
    whole.more = others
    return whole


def _in_order(responses: Iterable[completion_pb2.CompleteResponse]) -> Iterator[completion_pb2.CompleteResponse]:
    """Those of the first choice as they come, then those of the next: one reads one after the other."""
    waiting: dict[int, list[completion_pb2.CompleteResponse]] = {}
    current = 0
    for response in responses:
        if response.choice > current:
            waiting.setdefault(response.choice, []).append(response)
            continue
        yield response
        ended = response.HasField("finish")
        while ended:
            current += 1
            held = waiting.pop(current, [])
            yield from held
            ended = bool(held) and held[-1].HasField("finish")


def _show(response: completion_pb2.CompleteResponse, choice: Completion, show: Console, audit: bool) -> None:
    if not audit or _is_prompt(response):
        pieces = [plain(show, response.text)]
    else:
        pieces = [coloured(show, token) for token in response.tokens]
        if response.HasField("finish"):
            pieces.append(plain(show, _left_over(choice)))
    for piece in pieces:
        # Soft: lines are the terminal's to break; what is piped stays as the model wrote it.
        show.print(piece, end="", soft_wrap=True)


def _is_prompt(response: completion_pb2.CompleteResponse) -> bool:
    return not (response.token_ids or response.tokens or response.HasField("finish"))


def _left_over(choice: Completion) -> str:
    """Text after that of the tokens: bytes at the end that never became a character."""
    accounted = choice.echoed + "".join(token.text for token in choice.tokens)
    return choice.text[len(accounted) :] if choice.text.startswith(accounted) else ""


def ask(request: completion_pb2.CompleteRequest, prompt: str, *, raw: bool, system: str | None = None) -> None:
    """Puts a prompt into a request: as it is, or as a user's message for the model's chat template.

    Raises CliError.
    """
    if not prompt:
        raise CliError("prompt: is empty")
    if raw:
        request.text = checked(prompt, "prompt")
        return
    if system:
        request.chat.messages.add(role="system", content=checked(system, "system"))
    request.chat.messages.add(role="user", content=checked(prompt, "prompt"))


def checked(text: str, name: str) -> str:
    """Returns `text`, which came from outside. Raises CliError where it is not UTF-8 (PEP 383 surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CliError(f"{name}: {NOT_UTF8}") from error
    return text


def read_stdin() -> str:
    """Raises CliError."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CliError(f"prompt: {NOT_UTF8}") from error
