"""The chain of transformers itself, in float64, as the reference of `SamplingChain`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from tandem.sampling import History, SamplingChain, SamplingParams
from tests.support.tiny import tiny_llama


@functools.cache
def _generator():
    return tiny_llama(vocabulary=8).model


def processors(params: SamplingParams, text: int, top_p: float, min_p: float) -> LogitsProcessorList:
    """What `generate` builds for these parameters, in its own order. text: length of what the row follows."""
    config = GenerationConfig(
        do_sample=not params.is_greedy,
        temperature=params.temperature or None,
        top_k=params.top_k or None,
        top_p=top_p if top_p < 1 else None,
        min_p=min_p or None,
        repetition_penalty=params.repetition_penalty,
        sequence_bias=[[[token], float(bias)] for token, bias in params.logit_bias.items()] or None,
    )
    return _generator()._get_logits_processor(config, input_ids_seq_length=text, logits_processor=LogitsProcessorList())


def scores(params: SamplingParams, logits: Tensor, text: Sequence[int], *, looser: float = 0.0) -> Tensor:
    """Scores float64 [V] of one row after the chain; `looser` widens top-p and min-p by that much."""
    top_p = min(1.0, max(1e-12, params.top_p + looser))
    min_p = min(1.0, max(0.0, params.min_p * (1 - looser)))
    ids = torch.tensor([list(text)], dtype=torch.long)
    return processors(params, len(text), top_p, min_p)(ids, logits.double().unsqueeze(0))[0]


def uncut(params: SamplingParams) -> SamplingParams:
    """The same parameters without top-k, top-p and min-p."""
    changes = {name: getattr(params, name) for name in ("temperature", "repetition_penalty", "logit_bias")}
    return SamplingParams(**changes)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of production, and the text that it follows."""

    log_p: Tensor
    text: list[int]


def production(
    params: SamplingParams, logits: Tensor, prompt: Sequence[int], generated: Sequence[int], candidates: Sequence[int]
) -> list[Row]:
    chain = SamplingChain(params, logits.shape[-1])
    log_p = chain.log_probs(logits, History(prompt, generated), candidates)
    return [Row(row, [*prompt, *generated, *candidates[:index]]) for index, row in enumerate(log_p)]


def check(params: SamplingParams, logits: Tensor, row: Row, *, rounding: float = 1e-5) -> None:
    """Asserts that a row of production is transformers' row.

    Tokens may differ only where fp32 cannot tell on which side of a cut they lie: the reference with slightly looser
    cuts must hold the row's support, and the one with slightly tighter cuts must lie in it.
    """
    whole = scores(uncut(params), logits, row.text)
    finite = whole[whole.isfinite()]
    tolerance = rounding * max(1.0, float(finite.abs().max()))
    kept = row.log_p > -math.inf
    loose, tight = (scores(params, logits, row.text, looser=sign * rounding) > -math.inf for sign in (1, -1))
    assert bool((whole[kept] >= whole[loose].min() - tolerance).all())
    assert bool(kept[whole > whole[tight].min() + tolerance].all())
    expected = torch.log_softmax(whole.masked_fill(~kept, -math.inf), dim=-1)
    torch.testing.assert_close(row.log_p.double(), expected, rtol=1e-5, atol=tolerance)
