"""`python -m tandem.distil --recipe FILE --folder FOLDER`: the first stage alone, making or completing the shards.

Several processes, started by torchrun, share the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tandem.distil.recipe import Recipe, RecipeError
from tandem.serving import prepare_for_models

if TYPE_CHECKING:
    from tandem.distil.generation import Progress

_USAGE_ERROR = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tandem.distil", description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, required=True, help="what the draft is made from")
    parser.add_argument("--folder", type=Path, required=True, help="where the shards go, or are already")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    options = parser.parse_args()
    prepare_for_models()
    try:
        recipe = Recipe.read(options.recipe)
        _generate(recipe, options.recipe.parent, options.folder, options.device)
    except RecipeError as error:
        _refuse(error)
    except KeyboardInterrupt:
        print("ended; all whole shards stay, and the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def _generate(recipe: Recipe, base: Path, folder: Path, device: str) -> None:
    # These import torch, which takes seconds: a mistyped recipe does not wait for it.
    from tandem.distil.conversations import NothingToAskError
    from tandem.distil.generation import GenerationError, generate
    from tandem.distil.prompts import PromptError
    from tandem.distil.provenance import ProvenanceError
    from tandem.distil.shards import ShardError
    from tandem.models import ModelError
    from tandem.tokenization import TokenizationError

    try:
        generate(recipe, folder, base=base, device=device, report=_Lines(), note=_say)
    except (GenerationError, PromptError, ProvenanceError, NothingToAskError, ShardError) as error:
        _refuse(error)
    except (ModelError, TokenizationError, OSError) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    print(f"tandem.distil: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(_USAGE_ERROR) from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Lines:
    """A line now and then."""

    _SECONDS = 15.0

    def __init__(self) -> None:
        self._said = float("-inf")

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._said < self._SECONDS and progress.shards < progress.all_shards:
            return
        self._said = time.monotonic()
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(progress.dropped.items())) or "none"
        _say(
            f"shard {progress.shards} of {progress.all_shards}, {progress.tokens:,} of {progress.wanted:,} tokens,"
            f" {progress.tokens_per_second:.0f} tokens/s; prompts dropped: {dropped}"
        )


if __name__ == "__main__":
    main()
