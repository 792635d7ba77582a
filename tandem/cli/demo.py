"""`tandem demo`: one real completion through the three services, accounted for token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from tandem.cli.client import Client
from tandem.cli.complete import Completion, ask, gather
from tandem.cli.options import RequestOptions, build_request
from tandem.cli.render import legend, summary, tokens_per_second, two_columns

#: What the target alone is compared with besides AdaSD: lossless, with blocks as long as they are worth.
_GOODPUT = RequestOptions(stop="goodput", accept="exact")


def run_demo(client: Client, console: Console, *, prompt: str, max_tokens: int) -> None:
    """The same prompt by AdaSD, coloured, then for comparison by a lossless policy and by the target alone. Raises
    TandemError."""
    models = client.models()
    draft, target = escape(models.draft.model_id or "none"), escape(models.target.model_id)
    console.print(f"[bold]Tandem[/bold]  draft [green]{draft}[/green] proposes, target [cyan]{target}[/cyan] verifies")
    console.print(f"[dim]prompt[/dim]  {escape(prompt)}\n")
    # The first pass through a fresh process pays for warming up; no side of the comparison should.
    _complete(client, None, RequestOptions(), prompt, max_tokens=8)
    adasd = _complete(client, console, RequestOptions(), prompt, max_tokens=max_tokens)
    console.print()
    console.print(legend(console))
    console.print(Rule(style="dim"))
    console.print(summary(adasd.finish))
    if adasd.finish.speculation.verify_steps:
        goodput = _complete(client, None, _GOODPUT, prompt, max_tokens=max_tokens)
        alone = _complete(client, None, RequestOptions(policy="off"), prompt, max_tokens=max_tokens)
        console.print(_comparison({"AdaSD": adasd, "goodput": goodput}, alone))


def _complete(
    client: Client, show: Console | None, options: RequestOptions, prompt: str, *, max_tokens: int
) -> Completion:
    request = build_request(replace(options, max_tokens=max_tokens, audit=True))
    ask(request, prompt, raw=False)
    return gather(client.complete(request), show, audit=True)


def _comparison(others: Mapping[str, Completion], alone: Completion) -> Table:
    table = two_columns()
    plain = tokens_per_second(alone.finish)
    if plain > 0:
        table.add_row("target alone", f"{plain:.1f} tokens a second")
    for name, other in others.items():
        speed = f"{tokens_per_second(other.finish) / plain:.2f} times that; " if plain > 0 else ""
        table.add_row(name, f"{speed}{_agreement(other, alone)}")
    return table


def _agreement(other: Completion, alone: Completion) -> str:
    lossy = other.finish.speculation.lossy
    promise, ours, theirs = "lossy" if lossy else "lossless", other.token_ids, alone.token_ids
    if ours == theirs:
        return f"{promise}, the same text"
    pairs = enumerate(zip(ours, theirs, strict=False))
    first = next((index for index, (one, its) in pairs if one != its), min(len(ours), len(theirs)))
    why = "it may let through what the target would not say" if lossy else "blocks round otherwise than single tokens"
    return f"{promise}, the same text for {first} tokens, then another: {why}"
