"""What was asked for, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.pair import Pair
from bench.peers.names import DRAFT_WEIGHTS, FULL
from bench.policies import chosen
from tandem.cli.errors import CliError

#: A draft of Tandem's that is no model.
LOOKS_UP = "prompt-lookup"
_DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Options:
    """clients: in order, each once. policies: names, besides the target alone."""

    data: tuple[Path, ...]
    count: int
    max_tokens: int
    repeat: int
    clients: tuple[int, ...]
    policies: tuple[str, ...]
    target_gguf: str | None = None
    draft_gguf: str | None = None
    eagle_head: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises CliError or ValueError for what cannot be, naming the flag."""
        chosen(list(self.policies))
        for flag, path in (("--target-gguf", self.target_gguf), ("--draft-gguf", self.draft_gguf)):
            if path is not None and not Path(path).is_file():
                raise CliError(f"{flag}: {path} is no file")
        if self.draft_gguf is not None and self.target_gguf is None:
            raise CliError("--draft-gguf needs --target-gguf")

    def quick(self) -> Options:
        return replace(self, count=min(self.count, 2), max_tokens=min(self.max_tokens, 16), repeat=1)


def check_pair(pair: Pair) -> None:
    """Raises CliError for what services would only refuse after other models have been loaded for nothing."""
    if pair.dtype not in _DTYPES:
        raise CliError(f"--dtype must be {' or '.join(_DTYPES)}, not {pair.dtype!r}")
    if pair.draft_weights not in DRAFT_WEIGHTS:
        raise CliError(f"--draft-weights must be one of {', '.join(DRAFT_WEIGHTS)}, not {pair.draft_weights!r}")
    if pair.draft_model == "none":
        raise CliError("--draft-model: without a draft there is nothing to compare")
    if pair.draft_weights != FULL and pair.draft_model == LOOKS_UP:
        raise CliError(f"--draft-weights: {LOOKS_UP} has no weights")
