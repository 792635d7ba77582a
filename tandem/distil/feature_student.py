"""A draft that reads its target's features, while it learns: at each token it is given the target's own state before
it, as the services give it (teacher forcing, EAGLE, arXiv 2401.15077, section 4.2).

The target runs beside it over the stored answers, since its states would take a hundred times the room of the answers.
What the draft says is compared with the target's distribution as any draft's is, and what it makes of each token with
the target's state there, by smooth L1 over the H numbers of both, in the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.distil.student import Student
from tandem.inference.feeding import PROMPT_FEATURES, fed_inputs


class FeatureStudent(Student):
    """A `Student` of a model that reads features."""

    def __init__(self, model: PreTrainedModel, rows: Tensor, bias: Tensor | None, target: PreTrainedModel) -> None:
        """model: made by `make_fed`. target: frozen."""
        super().__init__(model, rows, bias)
        self._target = target.eval().requires_grad_(False)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """As `Student.forward`; places: the first of each sequence is the last token of its prompt. `state_distance` is
        then float32 [N], of the target's states at these places."""
        with torch.no_grad():
            states = self._target.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state.float()
        first = first_tokens(places, tokens.shape)
        length = tokens.shape[1] - int(first.min())
        # Each sequence from its first token on; what lies behind its end is read by nobody.
        columns = (first[:, None] + torch.arange(length, device=tokens.device)).clamp(max=tokens.shape[1] - 1)
        before = nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]  # nothing is before the first token of all
        before = before.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))
        row = places // tokens.shape[1]
        self._head.places = row * length + places - row * tokens.shape[1] - first[row]
        inputs = fed_inputs(self._model, tokens.gather(1, columns), before)
        logits = self._model(inputs_embeds=inputs, use_cache=False).logits.float()
        assert self._head.read is not None
        distances = nn.functional.smooth_l1_loss(
            self._head.read.float(), states.flatten(0, 1)[places], reduction="none"
        )
        self.state_distance = distances.mean(-1)
        return logits


def first_tokens(places: Tensor, shape: torch.Size) -> Tensor:
    """Column int64 [B] of the first token that the draft reads of each sequence, as the services have it: of the tokens
    of the prompt that have a feature, at most so many, one less than there are features. Of a prompt of one token, that
    one. places: see `FeatureStudent.forward`. shape: [B, T] of the tokens."""
    count, length = shape
    row = places // length
    last = torch.full((count,), length, device=places.device).scatter_reduce(0, row, places - row * length, "amin")
    return torch.minimum((last + 2 - PROMPT_FEATURES).clamp(min=1), last)
