"""Answers of a tiny target, as shards have them, and trainings on them that take a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel

from tandem.distil.dataset import Split, split
from tandem.distil.loss import Places
from tandem.distil.processes import Processes
from tandem.distil.recipe import Training
from tandem.distil.shards import Sample
from tandem.distil.student import Student, make_student, shape_of
from tandem.distil.training import Lessons

VOCABULARY = 64
CPU = Processes(0, 1, torch.device("cpu"))
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


def random_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """With weights wide enough that its predictions are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    wide = "embed" in name or "head" in name
                    parameter.copy_(torch.randn(parameter.shape) * (0.7 if wide else 0.2))
    return model.requires_grad_(False)


def llama(seed: int = 0, **facts: Any) -> PreTrainedModel:
    return random_model(LlamaConfig(**{**SHAPE, **facts}), seed)


def write(
    target: PreTrainedModel,
    count: int,
    *,
    kept: int = 16,
    longest: int = 16,
    temperatures: Sequence[float] = (0.0, 0.7, 1.0),
    seed: int = 0,
) -> list[Sample]:
    """Random prompts of 3 to 8 tokens, and answers of 4 to `longest` tokens."""
    random = torch.Generator().manual_seed(seed)
    size = target.config.vocab_size
    samples = []
    for length in range(3, 9):
        rows = [row for row in range(count) if row % 6 == length - 3]
        if not rows:
            continue
        heat = torch.tensor([temperatures[row % len(temperatures)] for row in rows])
        tokens = torch.randint(0, size, (len(rows), length), generator=random)
        for _ in range(longest):
            logits = target(input_ids=tokens, use_cache=False).logits[:, -1]
            drawn = torch.multinomial(
                (logits / heat.clamp(min=0.1)[:, None]).softmax(1), 1, generator=random
            )
            tokens = torch.cat([tokens, torch.where(heat[:, None] > 0, drawn, logits.argmax(1, keepdim=True))], 1)
        top = target(input_ids=tokens, use_cache=False).logits[:, length - 1 : -1].log_softmax(2).topk(kept)
        for index, row in enumerate(rows):
            answer = 4 + row % (longest - 3)
            samples.append(
                Sample(
                    tokens=tokens[index, : length + answer].int(),
                    prompt_length=length,
                    temperature=float(heat[index]),
                    top_ids=top.indices[index, :answer].int(),
                    top_log_probs=top.values[index, :answer].half(),
                )
            )
    return samples


def student_of(target: PreTrainedModel, layers: int = 2, token_ids: Sequence[int] = range(VOCABULARY)) -> Student:
    return make_student(target, shape_of(target, layers), torch.tensor(token_ids))


def lessons(samples: Sequence[Sample], folder: Path, token_ids: Sequence[int] = range(VOCABULARY)) -> Lessons:
    data: Split = split(samples, 0.1)
    return Lessons(data.train, data.held_out, Places(torch.tensor(token_ids), VOCABULARY), folder)


def settings(**facts: Any) -> Training:
    return Training(**{"epochs": 2, "batch_tokens": 256, "report_steps": 5, "learning_rate": 3e-3, **facts})
