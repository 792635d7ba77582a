"""One forward pass for the blocks of many sequences."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem.inference.attention import NAME, Slice, Step
from tandem.inference.cache import KeyValueCache
from tandem.inference.loaded import LoadedModel, UnsupportedModelError


class ContextFullError(ValueError):
    """A sequence would outgrow the model's context."""


class Sequence:
    """One sequence in a model: the tokens whose keys and values are held."""

    def __init__(self, layers: int) -> None:
        self.cache = KeyValueCache(layers)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        self.cache.truncate(length)


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens to append to a sequence, at least one; logits of the last `logits_rows` of them are wanted."""

    sequence: Sequence
    token_ids: Seq[int]
    logits_rows: int


class ModelRunner:
    """Runs one model. Belongs to one thread."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Raises UnsupportedModelError where the model's attention cannot be served."""
        self.loaded = loaded
        self._model = loaded.model
        self._layers = loaded.model.config.get_text_config().num_hidden_layers
        self._vocabulary = loaded.vocabulary_size
        check_supported(self._model)
        self._model.set_attn_implementation(NAME)
        self._probe()

    def open(self) -> Sequence:
        return Sequence(self._layers)

    def check(self, block: Block) -> None:
        """Raises ContextFullError where the block does not fit its sequence's context."""
        needed, limit = block.sequence.length + len(block.token_ids), self.loaded.context_length
        if needed > limit:
            raise ContextFullError(f"{needed} tokens do not fit the context of {limit}")

    @torch.inference_mode()
    def forward(self, blocks: Seq[Block]) -> list[Tensor]:
        """Logits fp32 [logits_rows, V] of each block; appends all blocks' tokens to their caches.

        Raises ContextFullError before anything is done. Whatever is raised, every cache is as it was.
        """
        for block in blocks:
            self.check(block)
        slices, tokens, positions, wanted = [], [], [], []
        for block in blocks:
            start, stop = len(tokens), len(tokens) + len(block.token_ids)
            slices.append(Slice(start, stop, block.sequence.cache))
            tokens.extend(block.token_ids)
            positions.extend(range(block.sequence.length, block.sequence.length + len(block.token_ids)))
            wanted.extend(range(stop - block.logits_rows, stop))
        logits = self._run(tokens, positions, wanted, Step(slices))
        for part in slices:
            part.cache.advance(part.stop - part.start)
        return list(logits.split([block.logits_rows for block in blocks]))

    def _run(self, tokens: Seq[int], positions: Seq[int], wanted: Seq[int], step: Step) -> Tensor:
        device = self.loaded.device
        output = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            # The output layer is run for the rows that are wanted only; it must have at least one.
            logits_to_keep=torch.tensor(wanted or [len(tokens) - 1], device=device),
            tandem_step=step,
        )
        if step.layers_seen != self._layers:
            raise UnsupportedModelError(
                f"{step.layers_seen} of {self._layers} layers attend through transformers' attention interface"
            )
        return output.logits[0, : len(wanted)].float()

    def _probe(self) -> None:
        """Runs two tokens, so that a model that cannot be served is refused when it is loaded."""
        name = type(self._model).__name__
        try:
            self.forward([Block(self.open(), [0, 0], 1)])
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{name} cannot be served: {error}") from error
        except (TypeError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{name} cannot be served: its attention does not go through transformers' attention interface"
            ) from error


def check_supported(model: PreTrainedModel) -> None:
    """Raises UnsupportedModelError, naming the model, where its code has no pluggable attention or no causal text."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name} cannot be served: it is an encoder-decoder model")
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(
            f"{name} cannot be served: its attention does not go through transformers' attention interface"
        )
