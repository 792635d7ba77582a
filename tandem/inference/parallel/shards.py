"""A model's weights split over processes by transformers' own plan, and what cannot be split, told by name.

Column-wise layers (queries, keys, values, gate and up) hold some of the outputs each, row-wise ones (output, down) some
of the inputs, whose partial results are summed over the group. Megatron-LM: Shoeybi et al. (arXiv 1909.08053).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, PreTrainedModel, __version__
from transformers.distributed import DistributedConfig

from tandem.models import UnsupportedModelError

# Layers whose outputs are keys, or queries, head by head. Where a plan splits them, it splits heads.
_KEY_LAYERS = ("k_proj", "query_key_value", "kv_b_proj")
_QUERY_LAYERS = ("q_proj", "query_key_value", "q_b_proj")


def check_config(model_id: str, config: PretrainedConfig, shards: int) -> None:
    """Raises UnsupportedModelError for a model that cannot be split over so many processes."""
    text_config = config.get_text_config()
    plan: dict[str, str] = getattr(text_config, "base_model_tp_plan", None) or {}
    if not plan:
        raise UnsupportedModelError(
            f"{model_id} cannot be split over {shards} processes: transformers {__version__} has no tensor parallel"
            f" plan for {config.model_type}"
        )
    queries = getattr(text_config, "num_attention_heads", None)
    keys = getattr(text_config, "num_key_value_heads", None) or queries
    for kind, layers, heads in (("key", _KEY_LAYERS, keys), ("query", _QUERY_LAYERS, queries)):
        split = any(rule == "colwise" and name.rpartition(".")[2] in layers for name, rule in plan.items())
        if split and isinstance(heads, int) and heads % shards:
            sizes = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
            raise UnsupportedModelError(
                f"{model_id} cannot be split over {shards} processes: its {heads} {kind} heads divide among {sizes}"
            )


def options(shards: int) -> dict[str, Any]:
    """What `from_pretrained` takes to load one process's shards. Needs torch's process group."""
    return {"distributed_config": DistributedConfig(tp_size=shards, tp_plan="auto")}


def use_local_weights(model: PreTrainedModel) -> None:
    """Gives linear layers their shards as plain tensors, so that no step has to take them out of distributed ones.

    Raises UnsupportedModelError for a shard that no rule of the plan puts together again.
    """
    for name, module in model.named_modules():
        sharded = {key: value for key, value in module._parameters.items() if isinstance(value, DTensor)}
        if sharded and "forward" not in vars(module):  # where a rule would have put its own
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot be split: the plan shards {name} and has no rule for its results"
            )
        if isinstance(module, nn.Linear):
            for key, value in sharded.items():
                module._parameters[key] = nn.Parameter(value.to_local(), requires_grad=False)
