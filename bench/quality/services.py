"""The services that this bench talks to: the orchestrator for texts, the target for what it thinks of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rich.console import Console

from bench.pair import Pair
from bench.prompts import Prompt
from bench.quality.scoring import Score, Scorer
from tandem.cli.client import Client
from tandem.cli.complete import Completion
from tandem.cli.services import LocalServices
from tandem.cli.signals import termination_unwinds
from tandem.models import resolve
from tandem.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class Services:
    """Running ones, and the tokenizer that the orchestrator uses."""

    client: Client
    scorer: Scorer
    tokenizer: Tokenizer

    def score(self, prompt: Prompt, completion: Completion, temperature: float) -> Score:
        """Raises TandemError, and ValueError where the prompt's tokens here are not those that were completed."""
        tokens = prompt_tokens(self.tokenizer, prompt)
        if len(tokens) != completion.finish.usage.prompt_tokens:
            raise ValueError(f"prompt {prompt.name} of {prompt.dataset} has other tokens here than in the services")
        return self.scorer.score(tokens, completion.token_ids, temperature)


def prompt_tokens(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """As the orchestrator makes them of `prompt`."""
    if prompt.raw:
        return tokenizer.encode(prompt.text)
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])


@contextmanager
def serving(pair: Pair) -> Iterator[Services]:
    """Runs the pair while the block lasts. Raises CliError or ModelError."""
    layout = pair.layout()
    tokenizer = Tokenizer.from_folder(resolve(layout.tokenizer or layout.target_model).path)
    with termination_unwinds(), Console(stderr=True).status("starting the services") as status:
        with LocalServices(layout, show_logs=False, say=lambda text: status.update(text)) as services:
            status.stop()
            target = f"{layout.host}:{services.ports['target_service']}"
            with closing(Client(services.endpoint)) as client, closing(Scorer(target)) as scorer:
                yield Services(client, scorer, tokenizer)
