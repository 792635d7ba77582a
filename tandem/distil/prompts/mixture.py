"""Draws prompts from all sources that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tandem.distil.prompts.exclude import Exclusion
from tandem.distil.prompts.files import FilePrompts
from tandem.distil.prompts.own_turns import OwnTurns
from tandem.distil.prompts.source import Prompt, PromptError, Source
from tandem.distil.prompts.templates import TemplatePrompts
from tandem.distil.recipe import Recipe
from tandem.distil.seeding import seed_of
from tandem.tokenization import Tokenizer


class Mixture:
    """own: how the target writes prompts itself; None where it does not. exclusion: what may not be asked. notes: what
    the user should know of it, a sentence each."""

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        *,
        own: OwnTurns | None = None,
        own_share: float = 0.0,
        exclusion: Exclusion | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """sources: drawn from alike, with what `own_share` leaves."""
        self.own = own
        self.exclusion = exclusion or Exclusion()
        self.notes = tuple(notes)
        self._sources = sources
        self._own_share = own_share
        self._seed = seed

    def draw(self, shard: int, number: int) -> Prompt | None:
        """The prompt with this number in the shard; None: the target is to write it."""
        random = Random(seed_of(self._seed, "mixture", shard, number))
        if self.own is not None and random.random() < self._own_share:
            return None
        return random.choice(self._sources).prompt(shard, number)


def open_mixture(recipe: Recipe, base: Path, tokenizer: Tokenizer) -> Mixture:
    """base: the folder that the recipe's files are relative to. Raises PromptError, which names the field, or the file
    and the line."""
    asked, data = recipe.prompts, recipe.data
    exclusion = Exclusion.of_files([base / name for name in asked.exclude])
    stride = max(1, data.shard_tokens // data.answer_tokens)
    sources: list[Source] = []
    if asked.files:
        sources.append(FilePrompts([base / name for name in asked.files], recipe.seed, stride))
    if asked.templates:
        sources.append(TemplatePrompts(recipe.seed))
    own, notes = None, []
    if asked.self_written:
        try:
            own = OwnTurns.of(tokenizer)
        except PromptError as error:
            if "self_written" in asked.model_fields_set:
                raise PromptError(f"prompts.self_written: {error}; set it to 0") from error
            notes.append(f"No prompts are self-written: {error}.")
    share = asked.self_written if own is not None else 0.0
    if not sources and share < 1:
        raise PromptError("prompts: nothing to ask; name files, set templates, or set self_written to 1")
    return Mixture(sources, recipe.seed, own=own, own_share=share, exclusion=exclusion, notes=notes)
