"""One forward pass for the blocks of many sequences."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tandem.inference.attention import NAME, Slice, Step
from tandem.inference.cache import KeyValueCache
from tandem.inference.loaded import LoadedModel
from tandem.models import UnsupportedModelError

_NOT_PLUGGABLE = "its attention does not go through transformers' attention interface"


class ContextFullError(ValueError):
    """A sequence would outgrow the model's context."""


class SequenceClosedError(ValueError):
    """The sequence has been closed."""


class Sequence:
    """One sequence in a model: the tokens whose keys and values are held."""

    def __init__(self, layers: int) -> None:
        self.cache = KeyValueCache(layers)
        self.closed = False

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens. Raises ValueError where there are fewer."""
        self.cache.truncate(length)

    def close(self) -> None:
        """Frees the cache; nothing can be fed any more. May be called again."""
        self.closed = True
        self.cache.free()


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens to append to a sequence, at least one; logits of the last `logits_rows` of them are wanted."""

    sequence: Sequence
    token_ids: Seq[int]
    logits_rows: int


class ModelRunner:
    """Runs one model. Belongs to one thread."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Raises UnsupportedModelError, naming the model, where its attention cannot be served."""
        self.loaded = loaded
        self._model = loaded.model
        self._config = loaded.model.config.get_text_config()
        self._layers: int = self._config.num_hidden_layers
        self._embeddings = int(loaded.model.get_input_embeddings().weight.shape[0])  # type: ignore[index, union-attr]
        check_supported(self._model)
        self._model.set_attn_implementation(NAME)
        self._probe()

    def open(self) -> Sequence:
        return Sequence(self._layers)

    def check(self, block: Block) -> None:
        """Raises SequenceClosedError, ContextFullError, or ValueError for a block that is none."""
        if block.sequence.closed:
            raise SequenceClosedError("the sequence is closed")
        count = len(block.token_ids)
        if not 0 <= block.logits_rows <= count or count == 0:
            raise ValueError(f"a block of {count} tokens cannot give {block.logits_rows} rows of logits")
        if min(block.token_ids) < 0 or max(block.token_ids) >= self._embeddings:
            raise ValueError(f"token ids must lie in [0, {self._embeddings})")
        needed, limit = block.sequence.length + count, self.loaded.context_length
        if needed > limit:
            raise ContextFullError(f"{needed} tokens do not fit the context of {limit}")

    @torch.inference_mode()
    def forward(self, blocks: Seq[Block]) -> list[Tensor]:
        """Logits fp32 [logits_rows, V] of each block, of different sequences; appends all tokens to the caches.

        Raises what `check` raises before anything is done. Whatever is raised, every cache is as it was.
        """
        if len({id(block.sequence) for block in blocks}) < len(blocks):
            raise ValueError("a sequence can have one block in a step")
        slices: list[Slice] = []
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for block in blocks:
            self.check(block)
            start, past = len(tokens), block.sequence.length
            tokens.extend(block.token_ids)
            stop = len(tokens)
            slices.append(Slice(start, stop, block.sequence.cache))
            positions.extend(range(past, past + stop - start))
            wanted.extend(range(stop - block.logits_rows, stop))
        logits = self._run(tokens, positions, wanted, Step(slices))
        for part in slices:
            part.cache.advance(part.stop - part.start)
        return list(logits.split([block.logits_rows for block in blocks]))

    def _run(self, tokens: Seq[int], positions: Seq[int], wanted: Seq[int], step: Step) -> Tensor:
        device = self.loaded.device
        # The output layer is run for the rows that are wanted only; it must have at least one.
        keep = torch.tensor(wanted or [len(tokens) - 1], device=device)
        logits = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=keep,
            tandem_step=step,
        ).logits[0]
        if len(step.windows) != self._layers:
            raise UnsupportedModelError(f"only {len(step.windows)} of its {self._layers} layers attend over a cache")
        if len(logits) != len(keep):  # a model that knows no `logits_to_keep`
            logits = logits[keep]
        return logits[: len(wanted)].float()

    def _probe(self) -> None:
        """Runs two tokens, so that a model that cannot be served is refused when it is loaded."""
        name, sequence = type(self._model).__name__, self.open()
        step = Step([Slice(0, 2, sequence.cache)])
        try:
            with torch.inference_mode():
                self._run([0, 0], [0, 1], [1], step)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{name} cannot be served: {error}") from error
        except (TypeError, AttributeError) as error:
            raise UnsupportedModelError(f"{name} cannot be served: {_NOT_PLUGGABLE}") from error
        for layer, kind in enumerate(getattr(self._config, "layer_types", None) or ()):
            if kind == "sliding_attention" and step.windows[layer] is None:
                raise UnsupportedModelError(f"{name} cannot be served: layer {layer} does not say what its window is")


def check_supported(model: PreTrainedModel) -> None:
    """Raises UnsupportedModelError, naming the model, for what is known not to work before it is tried."""
    config = model.config.get_text_config()
    problem = None
    if model.config.is_encoder_decoder:
        problem = "it is an encoder-decoder model"
    elif not getattr(model, "_supports_attention_backend", False):
        problem = _NOT_PLUGGABLE
    elif kinds := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        problem = f"it has layers of kind {', '.join(sorted(kinds))}"
    elif getattr(config, "num_kv_shared_layers", None):
        problem = "its layers share keys and values"
    elif kinds := _rope_types(config) & {"dynamic", "longrope"}:
        # Its angles follow the longest sequence of the batch: one caller's text would depend on another's.
        problem = f"its rotary embedding is {', '.join(sorted(kinds))}"
    if problem:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be served: {problem}")


def _rope_types(config: object) -> set[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]  # by kind of layer
    return {str(entry["rope_type"]) for entry in (parameters, *nested) if "rope_type" in entry}
