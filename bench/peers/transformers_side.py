"""The sides of transformers: one process, in the environment that the bench was started in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from bench.engine.peer_process import PeerProcess
from bench.pair import Pair
from bench.peers.names import PLAIN
from bench.peers.side import Answer, Ids, SideError, one_line
from bench.rig import resolve_rig


class TransformersProcess(PeerProcess):
    """Methods are those of Generation; they raise SideError. Close it at the end."""

    def __init__(self, pair: Pair, draft_model: str | None, environment: Mapping[str, str]) -> None:
        """draft_model: None where there is none that transformers could run. Raises ModelError for a rig that cannot
        be had."""
        target, draft = resolve_rig(pair.target_model), draft_model and resolve_rig(draft_model)
        load: Any = partial(_load, target, draft, pair.dtype)
        # OpenMP's choice where nobody has one, as in Tandem's services.
        super().__init__(load, pair.threads or torch.get_num_threads(), environment)

    async def sides(self) -> list[TransformersSide]:
        """Loads the models."""
        notes = dict(await self._ask("describe"))
        return [TransformersSide(way, self, note) for way, note in notes.items()]

    async def generate(self, way: str, prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
        return list(await self._ask("generate", way, prompts, tokens))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await super()._ask(method, *arguments)
        except RuntimeError as error:
            raise SideError(one_line(str(error))) from error


class TransformersSide:
    """One of the ways of Generation."""

    def __init__(self, way: str, process: TransformersProcess, note: str) -> None:
        self.name = way
        self._process = process
        self._note = note

    async def complete(self, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
        texts = await self._process.generate(self.name, [list(prompt) for prompt in prompts], tokens)
        return [Answer(len(text), tuple(text)) for text in texts]

    def note(self, clients: int) -> str:
        if clients == 1:
            return self._note
        return "one batch, padded on the left" if self.name == PLAIN else "one prompt after the other"


def _load(target: str, draft: str | None, dtype: str) -> Any:
    """In the process: it is there that torch reads the environment."""
    from bench.peers.generation import load_generation

    return load_generation(target, draft, dtype)
