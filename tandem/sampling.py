"""The sampling chain, the same for draft and target, and the ways to draw a token.

Order and meaning are transformers' (`generation/utils.py` and its LogitsProcessors): logit bias, repetition
penalty, presence and frequency penalties (as OpenAI defines them, over the generated text only), temperature,
top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.gumbel import gumbel_argmax, gumbel_argmax_rows

__all__ = [
    "History",
    "NotFiniteError",
    "SamplingChain",
    "SamplingParams",
    "draw",
    "draw_log",
    "gumbel_argmax",
    "gumbel_argmax_rows",
    "inverse_cdf",
]

# Entries that top-p looks at first; sorting a whole row costs ten times as much.
_NUCLEUS_HEAD = 256
# Entries that are summed at once when a long row is drawn from.
_SEGMENT = 256
# fp32 cannot hold much less; at this temperature every draw is the likeliest token anyway.
_LEAST_TEMPERATURE = 1e-30


class NotFiniteError(ValueError):
    """A row of logits holds NaN or +infinity, or no token is left in it."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a request samples. The defaults change nothing, but for temperature: 0 takes the likeliest token.

    Raises ValueError, beginning with the field's name, for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be finite and at least 0, not {self.temperature}")
        if not 0 <= self.top_k < 1 << 31:
            raise ValueError(f"top_k must be in [0, 2**31), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], not {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty must be finite and above 0, not {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name} must be in [-2, 2], not {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise ValueError(f"logit_bias must be a number or -infinity for tokens >= 0, not {bias} for {token}")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken (temperature 0)."""
        return self.temperature == 0


class History:
    """The text that penalties look at: the prompt, and what was generated, counted as it grows and shrinks."""

    def __init__(self, prompt_ids: Iterable[int], generated_ids: Iterable[int] = ()) -> None:
        self.prompt: frozenset[int] = frozenset(prompt_ids)
        self.generated: list[int] = []
        self.counts: Counter[int] = Counter()
        self.extend(generated_ids)

    def append(self, token: int) -> None:
        """Adds one generated token."""
        self.generated.append(token)
        self.counts[token] += 1

    def extend(self, tokens: Iterable[int]) -> None:
        """Adds generated tokens."""
        for token in tokens:
            self.append(token)

    def become(self, generated: Sequence[int], unchanged: int) -> None:
        """Takes on another text, at the cost of what differs. unchanged: how many of its first tokens the old one has,
        as far as it goes."""
        self.truncate(max(0, unchanged))
        self.extend(generated[len(self.generated) :])

    def truncate(self, length: int) -> None:
        """Keeps the first `length` generated tokens."""
        for token in self.generated[length:]:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
        del self.generated[length:]


class SamplingChain:
    """Turns logits into the log-probabilities that a request samples from."""

    def __init__(self, params: SamplingParams, vocabulary_size: int) -> None:
        """vocabulary_size: tokens that exist; logits beyond it (padding of the head) are cut off.

        Raises ValueError where a biased token is outside the vocabulary.
        """
        outside = [token for token in params.logit_bias if token >= vocabulary_size]
        if outside:
            raise ValueError(f"logit_bias names token {outside[0]}, the vocabulary has {vocabulary_size}")
        self.params = params
        self.vocabulary_size = vocabulary_size
        self._has_penalty = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)

    def log_probs(self, logits: Tensor, history: History, candidates: Sequence[int] = ()) -> Tensor:
        """Log-softmax after the whole chain: fp32 [n, V], -infinity outside the support.

        logits: [n, V or more], any float type, not changed. Row i follows the text of `history` and
        `candidates[:i]`, so n is at most len(candidates) + 1; one row alone follows `history`.
        At temperature 0: the softmax at temperature 1 after bias and penalties, without top-k, top-p and min-p;
        its argmax is the token, and entropies and distances stay meaningful [ours].
        Raises NotFiniteError where a row is not a distribution, ValueError for fewer logits than tokens.
        """
        if logits.shape[-1] < self.vocabulary_size:
            raise ValueError(f"{logits.shape[-1]} logits a row for a vocabulary of {self.vocabulary_size}")
        if len(logits) > len(candidates) + 1:
            raise ValueError(f"{len(logits)} rows of logits for {len(candidates)} candidates")
        scores = logits[:, : self.vocabulary_size].to(torch.float32)
        params = self.params
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=scores.device)
            bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=scores.device)
            scores = scores.index_add(1, ids, bias.expand(len(scores), -1))
        if self._has_penalty:
            scores = self._penalise(scores, history, candidates)
        if not params.is_greedy:
            if params.temperature != 1:
                # Relative to the largest, so that no temperature can overflow it.
                scores = (scores - scores.amax(-1, keepdim=True)) / max(params.temperature, _LEAST_TEMPERATURE)
            scores = self._cut(scores)
        log_p = torch.log_softmax(scores, dim=-1)
        if log_p[:, 0].isnan().any():  # one NaN or +infinity makes its whole row NaN
            raise NotFiniteError("logits are not finite, or the sampling parameters leave no token")
        return log_p

    def _penalise(self, scores: Tensor, history: History, candidates: Sequence[int]) -> Tensor:
        params, device = self.params, scores.device
        scores = scores.clone()
        # (row, token) pairs of candidates that precede a row, each pair once with its count.
        extra = [Counter(candidates[:row]) for row in range(len(scores))]
        if params.repetition_penalty != 1:
            base = history.prompt | history.counts.keys()
            pairs = [(row, token) for row, counts in enumerate(extra) for token in counts if token not in base]
            for index in (
                (slice(None), torch.tensor(sorted(base), dtype=torch.long, device=device)),
                tuple(torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).T),
            ):
                seen = scores[index]
                penalty = params.repetition_penalty
                scores[index] = torch.where(seen < 0, seen * penalty, seen / penalty)
        presence, frequency = params.presence_penalty, params.frequency_penalty
        if presence or frequency:
            amounts = [presence + frequency * count for count in history.counts.values()]
            ids = torch.tensor(list(history.counts), dtype=torch.long, device=device)
            scores[:, ids] -= torch.tensor(amounts, dtype=torch.float32, device=device)
            pairs = [(row, token) for row, counts in enumerate(extra) for token in counts]
            amounts = [
                (0 if token in history.counts else presence) + frequency * extra[row][token] for row, token in pairs
            ]
            index = tuple(torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).T)
            scores[index] -= torch.tensor(amounts, dtype=torch.float32, device=device)
        return scores

    def _cut(self, scores: Tensor) -> Tensor:
        params = self.params
        if 0 < params.top_k < self.vocabulary_size:
            least = scores.topk(params.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -math.inf)
        if params.top_p < 1:
            scores = _nucleus(scores, params.top_p)
        if params.min_p > 0:
            least = scores.amax(-1, keepdim=True) + math.log(params.min_p)
            scores = scores.masked_fill(scores < least, -math.inf)
        return scores


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Keeps a token iff the mass of those before it, likeliest first, is below top_p."""
    scores = scores - scores.amax(-1, keepdim=True)  # far from 0 a logarithm loses what tells likely tokens apart
    total = scores.logsumexp(-1, keepdim=True)
    size = min(_NUCLEUS_HEAD, scores.shape[-1])
    while True:
        head, ids = scores.topk(size, dim=-1)
        mass = (head - total).to(torch.float64).exp().cumsum(-1)
        if size == scores.shape[-1] or bool((mass[:, -1] >= top_p).all()):
            break
        size = min(size * 16, scores.shape[-1])
    before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
    kept = head.masked_fill(before >= top_p, -math.inf)
    return torch.full_like(scores, -math.inf).scatter_(1, ids, kept)


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """Draws by inversion in the order of the ids: int64 [...].

    weights: [..., V], not negative, of any sum above 0; u: [...] in [0, 1). Sums in float64; never returns an
    entry of weight 0. A long row is searched in two steps, which spares its running sum.
    """
    u = u.to(torch.float64).unsqueeze(-1)
    size = weights.shape[-1]
    if size < 4 * _SEGMENT:
        return _invert(weights, u)[0].squeeze(-1)
    whole = size - size % _SEGMENT
    sums = weights[..., :whole].unflatten(-1, (-1, _SEGMENT)).sum(-1, dtype=torch.float64)
    if whole < size:
        sums = torch.cat([sums, weights[..., whole:].sum(-1, keepdim=True, dtype=torch.float64)], dim=-1)
    segment, u = _invert(sums, u)
    ids = segment * _SEGMENT + torch.arange(_SEGMENT, device=weights.device)
    inside = weights.gather(-1, ids.clamp(max=size - 1)).masked_fill(ids >= size, 0.0)
    return (segment * _SEGMENT + _invert(inside, u)[0]).squeeze(-1)


def _invert(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Entry that u [..., 1] falls in, and where in that entry, as a new u: both [..., 1]."""
    cumulative = weights.to(torch.float64).cumsum(-1)
    if cumulative.is_cuda:  # its parallel sums may step down, or up where the weight is 0
        cumulative = cumulative.masked_fill(weights <= 0, -math.inf).cummax(-1).values
    total = cumulative[..., -1:].contiguous()
    target = u * total
    # u * total rounds up to total where u is next to 1: the last entry with weight takes that.
    entry = torch.searchsorted(cumulative, target, right=True)
    entry = torch.minimum(entry, torch.searchsorted(cumulative, total))
    width = weights.gather(-1, entry).to(torch.float64)
    before = cumulative.gather(-1, entry) - width
    return entry, ((target - before) / width).clamp(0, 1)


def draw(probabilities: Tensor, u: float) -> int:
    """One draw from probabilities [V] (of any sum) with u in [0, 1). See `inverse_cdf`.

    Raises ValueError where they are not weights: log-probabilities go to `draw_log`.
    """
    if not (probabilities >= 0).all() or not 0 < float(probabilities.sum()) < math.inf:
        raise ValueError("draw takes probabilities: not negative, with a finite sum above 0")
    return int(inverse_cdf(probabilities, torch.tensor(u, dtype=torch.float64, device=probabilities.device)))


def draw_log(log_probabilities: Tensor, u: float) -> int:
    """One draw from log-probabilities [V] (natural logarithms) with u in [0, 1)."""
    return draw(log_probabilities.to(torch.float64).exp(), u)
