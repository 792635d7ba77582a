"""Model folders on disk, small and real: what `save_pretrained` writes, and what can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def save_llama(path: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **facts: Any) -> LlamaForCausalLM:
    """A random Llama, saved to `path` without a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **facts})).to(dtype).eval()
    model.save_pretrained(path)
    return model


def change_config(path: Path, **facts: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, np.ndarray]:
    """A GGUF file of SHAPE with fp32 weights and a tokenizer of 64 ASCII characters; returns the weights."""
    hidden, middle, heads = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_attention_heads"]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(middle)
    writer.add_head_count(heads)
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([chr(33 + number) for number in range(63)] + ["AB"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 64)
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    weights = _gguf_weights(hidden, middle)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _gguf_weights(hidden: int, middle: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (64, hidden), "output.weight": (64, hidden), "output_norm.weight": (hidden,)
    }  # fmt: skip
    layer = {
        "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (hidden // 2, hidden),
        "attn_v": (hidden // 2, hidden), "attn_output": (hidden, hidden), "ffn_gate": (middle, hidden),
        "ffn_up": (middle, hidden), "ffn_down": (hidden, middle),
    }  # fmt: skip
    for number in range(SHAPE["num_hidden_layers"]):
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in layer.items()}
    generator = np.random.default_rng(0)
    return {name: (generator.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
