"""`tandem demo`: one real completion through the three services, accounted for token by token."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from tandem.cli.client import Client
from tandem.cli.complete import Completion, ask, gather
from tandem.cli.options import RequestOptions, build_request
from tandem.cli.render import legend, summary, tokens_per_second, two_columns


def run_demo(client: Client, console: Console, *, prompt: str, max_tokens: int) -> None:
    """The same prompt twice: by AdaSD, coloured, then by the target alone for comparison. Raises TandemError."""
    models = client.models()
    draft, target = escape(models.draft.model_id or "none"), escape(models.target.model_id)
    console.print(f"[bold]Tandem[/bold]  draft [green]{draft}[/green] proposes, target [cyan]{target}[/cyan] verifies")
    console.print(f"[dim]prompt[/dim]  {escape(prompt)}\n")
    # The first pass through a fresh process pays for warming up; neither side of the comparison should.
    _complete(client, None, prompt, max_tokens=8, policy="on")
    adasd = _complete(client, console, prompt, max_tokens=max_tokens, policy="on")
    console.print()
    console.print(legend(console))
    console.print(Rule(style="dim"))
    console.print(summary(adasd.finish))
    if adasd.finish.speculation.verify_steps:
        alone = _complete(client, None, prompt, max_tokens=max_tokens, policy="off")
        console.print(_comparison(adasd, alone))


def _complete(client: Client, show: Console | None, prompt: str, *, max_tokens: int, policy: str) -> Completion:
    request = build_request(RequestOptions(policy=policy, max_tokens=max_tokens, audit=True))
    ask(request, prompt, raw=False)
    return gather(client.complete(request), show, audit=True)


def _comparison(adasd: Completion, alone: Completion) -> Table:
    table = two_columns()
    fast, plain = tokens_per_second(adasd.finish), tokens_per_second(alone.finish)
    if plain > 0:
        table.add_row("target alone", f"{plain:.1f} tokens a second; AdaSD {fast / plain:.2f} times that")
    table.add_row("its text", _agreement(adasd.token_ids, alone.token_ids))
    return table


def _agreement(ours: list[int], theirs: list[int]) -> str:
    if ours == theirs:
        return "the same"
    pairs = enumerate(zip(ours, theirs, strict=False))
    first = next((index for index, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    return f"the same for {first} tokens, then another: AdaSD may let through what the target would not have said"
