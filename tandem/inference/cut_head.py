"""Output layers over some tokens of the vocabulary: a draft need not be able to say everything.

A row of the output layer is read in every step whether its token is ever drafted or not. A small draft's step is mostly
that layer (Zhao et al., FR-Spec, arXiv 2502.14856), and the commonest third of a vocabulary is nearly all that is said.
Lossless rules stay lossless: such a draft is one that gives the other tokens probability 0.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.sayable import Sayable

_NAME = "token_ids"


def read_token_ids(path: Path, vocabulary_size: int) -> Tensor:
    """The tokens that a file of safetensors lists: int32 [C], rising, in [0, vocabulary_size).

    Raises ValueError, naming the file and what is wrong with it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {_NAME}:
                raise ValueError(f"{path.name} must hold {_NAME} and nothing else, not {sorted(file.keys())}")
            token_ids: Tensor = file.get_tensor(_NAME)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if token_ids.dtype != torch.int32 or token_ids.dim() != 1 or not len(token_ids):
        raise ValueError(f"{path.name}: {_NAME} must be int32 [C], not {token_ids.dtype} {list(token_ids.shape)}")
    steps = token_ids.long().diff()
    if bool((steps <= 0).any()):
        at = int((steps <= 0).int().argmax())
        raise ValueError(f"{path.name}: {_NAME} must rise: {int(token_ids[at + 1])} follows {int(token_ids[at])}")
    for token in (int(token_ids[0]), int(token_ids[-1])):
        if not 0 <= token < vocabulary_size:
            raise ValueError(f"{path.name}: token {token} is not in [0, {vocabulary_size})")
    return token_ids


def cut_head(model: PreTrainedModel, token_ids: Tensor) -> None:
    """Leaves of the output layer the rows of these tokens [C], in a layer of its own: the embedding keeps all of its.

    What the model gives are logits [..., C], until `spread_logits`. Raises ValueError for a model whose output layer
    is no linear one.
    """
    whole = model.get_output_embeddings()
    if type(whole) is not nn.Linear:
        raise ValueError(f"the output layer of {type(model).__name__} is not linear: it cannot be cut")
    rows = token_ids.long().to(whole.weight.device)
    with torch.device("meta"):
        head = nn.Linear(whole.in_features, len(rows), bias=whole.bias is not None)
    head.weight = nn.Parameter(whole.weight.detach()[rows], requires_grad=False)
    if whole.bias is not None:
        head.bias = nn.Parameter(whole.bias.detach()[rows], requires_grad=False)
    model.set_output_embeddings(head)


def spread_logits(model: PreTrainedModel, sayable: Sayable, vocabulary_size: int) -> None:
    """Makes the logits of a model whose output layer was cut those of the whole vocabulary, -infinity elsewhere.

    Behind all that the model does, since some bend their logits (a soft cap would give -infinity a finite value).
    """

    def spread(module: nn.Module, inputs: Any, output: Any) -> Any:
        return dataclasses.replace(output, logits=sayable.spread(output.logits, vocabulary_size))

    model.register_forward_hook(spread)
