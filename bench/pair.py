"""The pair of models that a bench runs, as its command names it, and services that run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.prompts import FORMATS
from bench.rig import resolve_rig
from tandem.cli.client import Client
from tandem.cli.services import Layout
from tandem.cli.session import connected

Data = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help=f"Prompts, JSON lines ({', '.join(FORMATS)}); may be repeated."),
]
TargetModel = Annotated[
    str, typer.Option(help="Target: as services take it, or a rig's: rig:wide-3. A rig's figures are a rig's.")
]
DraftModel = Annotated[str, typer.Option(help="Draft: as services take it, or a rig's: rig:noise-0.05.")]
Dtype = Annotated[str, typer.Option(help="Type of both models' weights: bfloat16, float32.")]
DraftWeights = Annotated[
    str, typer.Option(help="The draft's linear layers: full, or quantised: int8, int4; auto: as its folder says.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each model; all cores if unset.")]


@dataclass(frozen=True, slots=True)
class Pair:
    """Names as commands take them. tokenizer: of another model than the target. drafter: as a draft service takes it;
    None for the draft model. middle_model: of a stack. verify_budget: of the target's steps.

    No command quantises the target: its texts are what others are compared by.
    """

    target_model: str = "embedded:smollm2"
    draft_model: str = "embedded:smollm2-draft"
    dtype: str = "bfloat16"
    draft_weights: str = "full"
    threads: int | None = None
    target_weights: str = "full"
    tokenizer: str | None = None
    verify_budget: str = "0"
    drafter: str | None = None
    middle_model: str | None = None

    @property
    def is_rig(self) -> bool:
        """Whether any figure of this pair is a rig's, and has to say so."""
        return any(name.startswith("rig:") for name in (self.target_model, self.draft_model))

    def layout(self) -> Layout:
        """Raises ModelError for a rig that cannot be had."""
        return Layout(
            target_model=resolve_rig(self.target_model),
            draft_model=None if self.draft_model == "none" else resolve_rig(self.draft_model),
            drafter=self.drafter,
            middle_model=None if self.middle_model is None else resolve_rig(self.middle_model),
            verify_budget=self.verify_budget,
            dtype=self.dtype,
            weights=self.target_weights,
            draft_weights=self.draft_weights,
            threads=self.threads,
            tokenizer=None if self.tokenizer is None else resolve_rig(self.tokenizer),
        )

    def draft_alone(self) -> Pair:
        """Services whose target is this pair's draft."""
        return replace(
            self, target_model=self.draft_model, target_weights=self.draft_weights, draft_model="none",
            tokenizer=self.target_model, drafter=None, middle_model=None, verify_budget="0",
        )  # fmt: skip

    def options(self) -> dict[str, Any]:
        """For a bench's record."""
        return asdict(self)

    def __str__(self) -> str:
        weights = "" if self.draft_weights == "full" else f", {self.draft_weights} weights"
        rig = "; A RIG: real costs and agreement of a pair that does not exist" if self.is_rig else ""
        drafter = "" if self.drafter is None else f", drafter {self.drafter}"
        return f"target {self.target_model}, draft {self.draft_model}{weights}{drafter} ({self.dtype}){rig}"


@contextmanager
def running(pair: Pair) -> Iterator[Client]:
    """A client of the three services, which run the pair while the block lasts. Raises CliError or ModelError."""
    with connected(None, pair.layout(), Console(stderr=True)) as client:
        yield client
