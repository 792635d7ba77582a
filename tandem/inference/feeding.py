"""Models of a layer or more that go on from another model's features (EAGLE, arXiv 2401.15077, section 4).

Such a head reads at each token its embedding and the feature before it, the hidden state [H] that the token was drawn
from, put together by one linear layer:

    x_t = W [e(token_t); f_{t-1}],    f'_t = layers(x)_t,    law of token_{t+1} = head(f'_t)

with the other model's own embedding e and output layer. Its output is meant to be the next feature, so no norm follows,
and where the next feature is not known it takes the place of that one. Positions count from the first token that it
reads [ours]: what is before it needs none.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.inference.capacity import GPU_SHARE
from tandem.inference.loaded import LoadedModel
from tandem.inference.runner import Chunk, ModelRunner
from tandem.inference.sequence import Sequence
from tandem.inference.step import Step
from tandem.inference.table import BlockTable
from tandem.models import UnsupportedModelError

#: Of a prompt's end, that the services give; drafts are trained on so many.
PROMPT_FEATURES = 32
#: The linear layer's name in the model.
FEED = "feed"


def make_fed(model: PreTrainedModel) -> None:
    """Makes a model read features: without its final norm, and with the linear layer [H, 2 H], on the meta device until
    it is loaded. Raises UnsupportedModelError, naming the model, where the norm is not found."""
    decoder = model.get_decoder()
    norms = [name for name, child in decoder.named_children() if "norm" in type(child).__name__.lower()]
    if len(norms) != 1:
        raise UnsupportedModelError(f"{type(model).__name__} cannot be fed with features: its final norm is not found")
    setattr(decoder, norms[0], nn.Identity())
    width = model.config.get_text_config().hidden_size
    model.add_module(FEED, nn.Linear(2 * width, width, bias=False, device="meta", dtype=model.dtype))


def fed_inputs(model: PreTrainedModel, tokens: Tensor, features: Tensor) -> Tensor:
    """What its layers read, [..., H]. tokens: int64 [...]. features: [..., H], of any float type, before each token."""
    embedded = model.get_input_embeddings()(tokens)
    found: Tensor = model.get_submodule(FEED)(torch.cat([embedded, features.to(embedded.dtype)], -1))
    return found


class FedSequence(Sequence):
    """inputs: the feature [H] before each token that is fed, to be there before the token is; on `device`."""

    def __init__(self, table: BlockTable, device: torch.device, priority: int = 0) -> None:
        super().__init__(table, priority)
        self.inputs: list[Tensor] = []
        self._device = device

    def take_in(self, features: Tensor) -> None:
        """[n, H], before the next tokens to be fed."""
        self.inputs += features.to(self._device, torch.float32)

    def advance(self, count: int, unconfirmed: int) -> None:
        """Nobody else may find what is there: it follows from features, too."""
        super().advance(count, len(self.tokens))

    def truncate(self, length: int, *, keep: bool = False) -> None:
        super().truncate(length, keep=keep)
        del self.inputs[length:]


class FedRunner(ModelRunner):
    """As its base, for a model that reads features."""

    def __init__(
        self, loaded: LoadedModel, *, cache_bytes: int | None = None, gpu_share: float = GPU_SHARE
    ) -> None:
        self._inputs: list[Tensor] = []  # of the pass
        super().__init__(loaded, cache_bytes=cache_bytes, gpu_share=gpu_share)

    def open(self, priority: int = 0) -> FedSequence:
        return FedSequence(self.cache.table(), self.loaded.device, priority)

    def run(self, chunks: Seq[Chunk]) -> list[Tensor]:
        self._inputs = list(_inputs(chunks))
        return super().run(chunks)

    def _forward(self, tokens: Tensor, positions: Tensor, keep: Tensor, step: Step) -> Tensor:
        width = self._model.config.get_text_config().hidden_size
        features = torch.zeros(tokens.shape[1], width, device=tokens.device)
        if self._inputs:
            features[: len(self._inputs)] = torch.stack(self._inputs)
        embedded = fed_inputs(self._model, tokens, features.unsqueeze(0))
        return self._model(
            inputs_embeds=embedded, position_ids=positions, use_cache=False, logits_to_keep=keep, tandem_step=step
        ).logits[0]


def _inputs(chunks: Seq[Chunk]) -> Iterable[Tensor]:
    for chunk in chunks:
        sequence = chunk.sequence
        if not isinstance(sequence, FedSequence):
            raise TypeError("a sequence of another runner")
        yield from sequence.inputs[sequence.cached : sequence.cached + chunk.count]
