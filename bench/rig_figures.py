"""How far a rig's models agree with the model that they were made of, and what a step of each costs."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.prompts import SPEC_BENCH_20, read_prompts
from bench.rig import BASE, resolve_rig
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import Block, ModelRunner
from tandem.inference.threads import compute_with
from tandem.models import resolve
from tandem.tokenization import Tokenizer

#: Name, dtype and weights of what stands beside the base model.
MODELS = (
    ("rig:wide-3", "bfloat16", "full"), ("rig:wide-3", "float32", "full"),
    ("rig:noise-0.02", "bfloat16", "full"), ("rig:noise-0.05", "bfloat16", "full"),
    ("rig:noise-0.05", "bfloat16", "int8"), ("rig:noise-0.05", "bfloat16", "int4"),
    ("rig:noise-0.1", "bfloat16", "full"), ("embedded:smollm2-draft", "bfloat16", "full"),
)  # fmt: skip
_TOKENS = 26
_CONTEXT = 256
_STEPS = 25


@dataclass(frozen=True, slots=True)
class RigFigures:
    """agreement: share of the base model's greedy tokens that are likeliest here too, of `positions`, where both have
    the same dtype. step: median time of a step of one token behind 256, over the base model's in bf16."""

    name: str
    dtype: str
    weights: str
    parameters: int
    agreement: float
    positions: int
    step: float
    milliseconds: float


def measure(threads: int) -> Iterator[RigFigures]:
    """The figures of each model, one after the other. Builds what is not there yet. Raises ModelError."""
    compute_with(threads)
    texts: dict[str, list[tuple[list[int], list[int]]]] = {}
    base_step = 0.0
    for dtype in ("bfloat16", "float32"):
        base = _runner(BASE, dtype)
        texts[dtype] = [(prompt, greedy(base, prompt)) for prompt in _prompts()]
        if dtype == "bfloat16":
            base_step = step_seconds(base)
    for name, dtype, weights in MODELS:
        runner = _runner(name, dtype, weights)
        equal = total = 0
        for prompt, text in texts[dtype]:
            equal += sum(one == other for one, other in zip(likeliest(runner, prompt, text), text, strict=True))
            total += len(text)
        step = step_seconds(runner)
        parameters = runner.loaded.parameter_count
        yield RigFigures(name, dtype, weights, parameters, equal / total, total, step / base_step, step * 1e3)


def _runner(name: str, dtype: str, weights: str = "full") -> ModelRunner:
    loaded = load_model(resolve(resolve_rig(name), None), dtype=dtype, weights=weights, device="cpu")
    return ModelRunner(loaded, cache_bytes=256 << 20)


def _prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_folder(tokenizer_folder(resolve(BASE, None)))
    prompts = read_prompts(SPEC_BENCH_20)
    return [tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}]) for prompt in prompts]


def greedy(runner: ModelRunner, prompt: Sequence[int]) -> list[int]:
    """The model's own text."""
    sequence, feed, text = runner.open(), list(prompt), list[int]()
    while len(text) < _TOKENS:
        [logits] = runner.forward([Block(sequence, feed, 1)])
        feed = [int(logits[-1].argmax())]
        text += feed
    sequence.close()
    return text


def likeliest(runner: ModelRunner, prompt: Sequence[int], text: Sequence[int]) -> list[int]:
    """The likeliest token at each position of `text`, whatever stands there."""
    sequence = runner.open()
    [logits] = runner.forward([Block(sequence, [*prompt, *text[:-1]], len(text))])
    sequence.close()
    return [int(token) for token in logits.argmax(-1)]


def step_seconds(runner: ModelRunner) -> float:
    """Median time of a step of one token behind 256."""
    source, sequence, seconds = random.Random(0), runner.open(), []
    runner.forward([Block(sequence, [source.randrange(runner.loaded.vocabulary_size) for _ in range(_CONTEXT)], 1)])
    for _ in range(_STEPS):
        began = time.perf_counter()
        runner.forward([Block(sequence, [1], 1)])
        seconds.append(time.perf_counter() - began)
        sequence.truncate(_CONTEXT)
    sequence.close()
    return statistics.median(seconds)
