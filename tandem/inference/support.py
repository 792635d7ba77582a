"""Which models can be served, and what their entries in a cache look like: found out by trying two tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from tandem.inference.cache import EntryShape
from tandem.inference.step import Piece, Step
from tandem.models import UnsupportedModelError
from tandem.trees import NO_TREE

_NOT_PLUGGABLE = "its attention does not go through transformers' attention interface"


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


def probe(model: PreTrainedModel, run: Callable[[Step], object]) -> EntryShape:
    """What a token leaves in the cache. run: a forward pass over two tokens.

    Raises UnsupportedModelError, naming the model, where its attention cannot be served.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    step = _ProbeStep()
    try:
        run(step)
        shape = step.shape(config.num_hidden_layers)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{name} cannot be served: {error}") from error
    except (TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"{name} cannot be served: {_NOT_PLUGGABLE}") from error
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind == "sliding_attention" and step.windows[layer] is None:
            raise UnsupportedModelError(f"{name} cannot be served: layer {layer} does not say what its window is")
    return shape


class _ProbePart:
    start, stop, count, past, length, seen_by_all = 0, 2, 2, 0, 2, 0
    tree = NO_TREE

    def __init__(self, at: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self._at = at

    def pieces(self, window: int | None, *, whole: bool) -> Sequence[Piece]:
        return [Piece(0, self.length, self._at)]


class _ProbeStep(Step):
    """Two tokens of one sequence, without a cache."""

    def __init__(self) -> None:
        self.count = 2
        self.windows = {}
        self._seen = {}
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self.parts = [_ProbePart(self._stored.__getitem__)]  # type: ignore[list-item]
        self.tokens_each = 2

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self._stored[layer] = keys.unsqueeze(0), values.unsqueeze(0)

    def sections(self, window: int | None) -> int:
        return 1

    def shape(self, layers: int) -> EntryShape:
        if len(self._stored) != layers:
            raise UnsupportedModelError(f"only {len(self._stored)} of its {layers} layers attend over a cache")
        shapes = {
            EntryShape(layers, keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)
            for keys, values in self._stored.values()
        }
        if len(shapes) > 1:
            raise UnsupportedModelError("its layers differ in the shape of their keys and values")
        return shapes.pop()


def _rope_types(config: object) -> set[str]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]  # by kind of layer
    return {str(entry["rope_type"]) for entry in (parameters, *nested) if "rope_type" in entry}


