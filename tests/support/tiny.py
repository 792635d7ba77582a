"""Small random models, real in everything but size: about a hundred thousand parameters, a millisecond a step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tandem.inference.cut_head import cut_head, spread_logits
from tandem.inference.empty import empty_model
from tandem.inference.feeding import make_fed
from tandem.inference.loaded import LoadedModel
from tandem.sayable import Sayable


def tiny_llama(
    seed: int = 0, *, vocabulary: int = 64, noise: float = 0.0, context: int = 512, layers: int = 2
) -> LoadedModel:
    """A random Llama in fp32 whose predictions vary from sure to unsure.

    noise: of Gaussian noise on each weight, as a share of its standard deviation; grades how well a copy drafts for
    the original of the same seed.
    """
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                continue
            # Wider than the library's start, so that the output is far from uniform.
            scale = 0.7 if "lm_head" in name or "embed" in name else 0.15
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        other = torch.Generator().manual_seed(seed + 1)
        for parameter in model.parameters():
            if noise:
                parameter.add_(torch.randn(parameter.shape, generator=other) * parameter.std().nan_to_num() * noise)
    model = model.eval().requires_grad_(False)
    return LoadedModel(
        model=model,
        vocabulary_size=vocabulary,
        context_length=context,
        dtype="float32",
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        end_token_ids=(),
        device=torch.device("cpu"),
    )


def tiny_head(target: LoadedModel, seed: int = 0, *, noise: float = 0.3) -> LoadedModel:
    """A head over the features of `target`, a tiny Llama, with that one's embedding and output layer. Of each feature
    it passes something on; noise: what it adds by itself."""
    config = copy.deepcopy(target.model.config)
    config.num_hidden_layers = 1
    model = empty_model(config, torch.float32)
    make_fed(model)
    theirs, generator = target.model.state_dict(), torch.Generator().manual_seed(seed)
    weights = {}
    for name, blank in model.state_dict().items():
        shared = "embed" in name or "lm_head" in name
        weights[name] = theirs[name] if shared else torch.randn(blank.shape, generator=generator) * 0.15
        if "norm" in name:
            weights[name] = torch.ones(blank.shape)
    width = config.hidden_size
    weights["feed.weight"] = torch.cat([torch.eye(width), torch.eye(width)], 1)
    weights["feed.weight"] += torch.randn(width, 2 * width, generator=generator) * noise
    model.load_state_dict(weights, assign=True)
    return replace(target, model=model.eval().requires_grad_(False), is_fed=True)


def can_say(loaded: LoadedModel, token_ids: Sequence[int]) -> LoadedModel:
    """The model with its output layer cut to some tokens, rising."""
    kept = torch.tensor(token_ids)
    cut_head(loaded.model, kept)
    sayable = Sayable.of(kept)
    spread_logits(loaded.model, sayable, loaded.vocabulary_size)
    return replace(loaded, sayable=sayable)
