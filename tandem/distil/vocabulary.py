"""What a draft can say: the tokens that its target says most."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import pre_tokenizers
from torch import Tensor

from tandem.distil.shards import Sample
from tandem.tokenization import Tokenizer

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
#: Answers counted at once.
_GROUP = 256


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """token_ids: int32 [S], strictly rising: what the draft can say. mass: share of the target's probability over the
    answers that lies on them, at least: what lies outside of the kept entries counts as not covered. said: share of
    the answers' tokens that are among them."""

    token_ids: Tensor
    mass: float
    said: float


def choose(
    samples: Sequence[Sample], size: int, vocabulary_size: int, *, ends: Collection[int], others: Collection[int]
) -> Vocabulary:
    """The `size` tokens with the most of counts and probability in the answers; all where size is 0.

    A token counts once for each time that it was said, and by its probability wherever it is among the kept entries.
    ends: always among them. others: tokens that are wanted however rare they are; they and the ends get at most half
    of the places, the commonest of them first.
    """
    counts, mass, places = _count(samples, vocabulary_size)
    if size == 0 or size >= vocabulary_size:
        chosen = torch.ones(vocabulary_size, dtype=torch.bool)
    else:
        chosen = _chosen(counts + mass, size, ends, others)
    ids = chosen.nonzero()[:, 0].to(torch.int32)
    share = 1 / max(places, 1)
    return Vocabulary(ids, float(mass[chosen].sum()) * share, float(counts[chosen].sum()) * share)


def _chosen(score: Tensor, size: int, ends: Collection[int], others: Collection[int]) -> Tensor:
    """bool [V]; ties go to the lower id."""
    order = score.argsort(descending=True, stable=True).tolist()
    wanted = list(islice((token for token in order if token in ends), size))
    known = set(wanted)
    room = max(size // 2 - len(known), 0)
    wanted += islice((token for token in order if token in others and token not in known), room)
    known = set(wanted)
    wanted += islice((token for token in order if token not in known), size - len(known))
    chosen = torch.zeros(len(score), dtype=torch.bool)
    chosen[wanted] = True
    return chosen


def _count(samples: Sequence[Sample], vocabulary_size: int) -> tuple[Tensor, Tensor, int]:
    """Times said and probability of each token, float64 [V], and how many tokens were said."""
    counts, mass = (torch.zeros(vocabulary_size, dtype=torch.float64) for _ in range(2))
    places = 0
    for start in range(0, len(samples), _GROUP):
        group = samples[start : start + _GROUP]
        answers = torch.cat([sample.answer for sample in group]).long()
        ids = torch.cat([sample.top_ids.flatten() for sample in group]).long()
        weights = torch.cat([sample.top_log_probs.flatten() for sample in group]).double().exp()
        counts += torch.bincount(answers, minlength=vocabulary_size)
        mass += torch.bincount(ids, weights, minlength=vocabulary_size)
        places += len(answers)
    return counts, mass, places


def unusual(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that a draft should have however rare: special ones, and single bytes, of which any text can be made."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    pieces = tokenizer.pieces().items()
    return tokenizer.special_token_ids | {token for text, token in pieces if text in alphabet or _BYTE.fullmatch(text)}
