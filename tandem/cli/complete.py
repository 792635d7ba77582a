"""`tandem complete`, and what `chat` and `demo` have in common with it: one completion, shown as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console

from tandem.cli.errors import NOT_UTF8, CliError
from tandem.cli.render import coloured, plain
from tandem.v1 import completion_pb2


@dataclass(slots=True)
class Completion:
    """A whole completion, put together from its stream."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    tokens: list[completion_pb2.TokenAccount] = field(default_factory=list)
    finish: completion_pb2.Finish = field(default_factory=completion_pb2.Finish)


def gather(
    responses: Iterable[completion_pb2.CompleteResponse], show: Console | None, *, audit: bool
) -> Completion:
    """Reads a stream to its end. show: console to write to as it comes; None writes nothing.

    audit: show tokens in the colours of their sources.
    """
    whole = Completion()
    try:
        _read(responses, whole, show, audit)
    except BaseException:
        if show is not None and whole.text:
            show.print()  # what is said of it starts on a line of its own
        raise
    if show is not None:
        if audit:
            show.print(plain(show, _left_over(whole)), end="", soft_wrap=True)
        show.print()
    return whole


def _read(
    responses: Iterable[completion_pb2.CompleteResponse], whole: Completion, show: Console | None, audit: bool
) -> None:
    for response in responses:
        whole.text += response.text
        whole.token_ids.extend(response.token_ids)
        whole.tokens.extend(response.tokens)
        if response.HasField("finish"):
            whole.finish = response.finish
        if show is None:
            continue
        pieces = [coloured(show, token) for token in response.tokens] if audit else [plain(show, response.text)]
        for piece in pieces:
            # Soft: lines are the terminal's to break; what is piped stays as the model wrote it.
            show.print(piece, end="", soft_wrap=True)


def _left_over(whole: Completion) -> str:
    """Text after that of the tokens: bytes at the end that never became a character."""
    accounted = "".join(token.text for token in whole.tokens)
    return whole.text[len(accounted) :] if whole.text.startswith(accounted) else ""


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
