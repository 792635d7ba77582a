"""Measures a pair, part by part. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.decode.run import Sums, Task, clients, run
from bench.draft import agreement, steps
from bench.draft.agreement import Along
from bench.draft.parts import SPEEDS
from bench.draft.policies import lossless
from bench.draft.steps import Steps
from bench.draft.texts import asked
from bench.pair import Pair
from bench.prompts import Prompt
from bench.rig import resolve_rig
from tandem.cli.errors import CliError
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import ModelRunner
from tandem.inference.threads import compute_with
from tandem.models import resolve
from tandem.tokenization import Tokenizer

Say = Callable[[str], None]
_CACHE = 1 << 30


@dataclass(frozen=True, slots=True)
class Scale:
    """repetitions: of steps. speed_prompts: of each file, completed by every policy."""

    repetitions: int
    speed_prompts: int


FULL = Scale(repetitions=200, speed_prompts=4)
QUICK = Scale(repetitions=30, speed_prompts=1)


class InProcess:
    """Both models in this process, where no service is between them and the bench."""

    def __init__(self, pair: Pair) -> None:
        """Raises ModelError, TokenizationError, or CliError for models that are no pair."""
        compute_with(pair.threads or 2)
        folders = [resolve(resolve_rig(name)) for name in (pair.target_model, pair.draft_model)]
        tokenizers = [Tokenizer.from_folder(tokenizer_folder(folder)) for folder in folders]
        if tokenizers[0].fingerprint != tokenizers[1].fingerprint:
            raise CliError(f"{pair.draft_model} has another tokenizer than {pair.target_model}: it cannot draft for it")
        self._tokenizer = tokenizers[0]
        weights = (pair.target_weights, pair.draft_weights)
        self._target, self._draft = (
            ModelRunner(
                load_model(folder, dtype=pair.dtype, device="cpu", weights=each), cache_bytes=_CACHE
            )
            for folder, each in zip(folders, weights, strict=True)
        )

    def agreement(self, prompts: Sequence[Prompt], max_tokens: int, seed: int, say: Say) -> list[Along]:
        """Of each prompt."""
        questions = asked(self._tokenizer, prompts)
        ends = self._tokenizer.end_token_ids
        return agreement.measure(
            self._target, self._draft, questions, max_tokens=max_tokens, ends=ends, seed=seed, say=say
        )

    def steps(self, scale: Scale, say: Say) -> dict[float, list[Steps]]:
        """By temperature."""
        return {
            degree: steps.measure(
                self._target, self._draft, temperature=degree, repetitions=scale.repetitions, say=say
            )
            for degree in SPEEDS
        }  # fmt: skip


def speeds(
    pair: Pair, prompts: Sequence[Prompt], max_tokens: int, seed: int, say: Say
) -> dict[float, Mapping[str, Sums]]:
    """Every policy on every prompt, through services, by temperature."""
    policies = {degree: lossless(degree) for degree in SPEEDS}
    every = {name: each for named in policies.values() for name, each in named.items()}
    with clients(pair, every) as served:
        return {
            degree: run(served, named, Task(prompts, max_tokens, degree, seed), say)
            for degree, named in policies.items()
        }
