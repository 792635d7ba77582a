"""`tandem complete`, and what `chat` and `demo` have in common with it: one completion, shown as it comes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console

from tandem.cli.render import coloured
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
    for response in responses:
        whole.text += response.text
        whole.token_ids.extend(response.token_ids)
        whole.tokens.extend(response.tokens)
        if response.HasField("finish"):
            whole.finish = response.finish
        if show is None:
            continue
        if audit:
            for token in response.tokens:
                show.print(coloured(show, token), end="", soft_wrap=True)
        elif response.text:
            show.out(response.text, end="", highlight=False)
    if show is not None:
        show.print()
    return whole


def ask(request: completion_pb2.CompleteRequest, prompt: str, *, raw: bool, system: str | None = None) -> None:
    """Puts a prompt into a request: as it is, or as a user's message for the model's chat template."""
    if raw:
        request.text = prompt
        return
    if system:
        request.chat.messages.add(role="system", content=system)
    request.chat.messages.add(role="user", content=prompt)
