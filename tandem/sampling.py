"""The sampling chain, the same for draft and target, and the ways to draw a token.

Order and meaning are transformers' (`generation/utils.py` and its LogitsProcessors): logit bias, repetition
penalty, presence and frequency penalties (as OpenAI defines them, over the generated text only), what the text may
be (`constraints.py`), temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.constraints import Constraint
from tandem.draws import draw, draw_log, inverse_cdf
from tandem.gumbel import gumbel_argmax, gumbel_argmax_rows
from tandem.penalties import History, penalise
from tandem.sayable import Sayable
from tandem.transfers import join, upload

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
    "log_probs_batch",
    "not_finite",
]

# Entries that top-p looks at first; sorting a whole row costs ten times as much.
_NUCLEUS_HEAD = 256
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


class SamplingChain:
    """Turns logits into the log-probabilities that a request samples from."""

    def __init__(self, params: SamplingParams, vocabulary_size: int, constraint: Constraint | None = None) -> None:
        """vocabulary_size: tokens that exist; logits beyond it (padding of the head) are cut off. constraint: what
        the text may be; it belongs to this chain alone.

        Raises ValueError where a biased token is outside the vocabulary.
        """
        outside = [token for token in params.logit_bias if token >= vocabulary_size]
        if outside:
            raise ValueError(f"logit_bias names token {outside[0]}, the vocabulary has {vocabulary_size}")
        self.params = params
        self.vocabulary_size = vocabulary_size
        self._constraint = constraint
        self._has_penalty = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)
        sampled = not params.is_greedy
        #: Which of temperature, top-k, top-p and min-p have something to do.
        self.stages = (
            sampled and params.temperature != 1,
            sampled and 0 < params.top_k < vocabulary_size,
            sampled and params.top_p < 1,
            sampled and params.min_p > 0,
        )
        #: Whether tokens may end with probability 0.
        self.forbids = any(self.stages[1:]) or -math.inf in params.logit_bias.values() or constraint is not None

    @property
    def reads_text(self) -> bool:
        """Whether the text so far makes a difference."""
        return self._has_penalty or self._constraint is not None

    @property
    def follows_one_text(self) -> bool:
        """Whether it cannot be asked about several texts that go on differently."""
        return self._constraint is not None and self._constraint.follows_one_text

    def log_probs(self, logits: Tensor, history: History, candidates: Sequence[int] = ()) -> Tensor:
        """Log-softmax after the whole chain: fp32 [n, V], -infinity outside the support.

        logits: [n, V or more], any float type, not changed. Row i follows the text of `history` and
        `candidates[:i]`, so n is at most len(candidates) + 1; one row alone follows `history`.
        At temperature 0: the softmax at temperature 1 after bias and penalties, without top-k, top-p and min-p;
        its argmax is the token, and entropies and distances stay meaningful [ours].
        Raises NotFiniteError where a row is not a distribution, ValueError for fewer logits than tokens.
        """
        log_p = log_probs_batch([self], [logits], [history], [candidates])[0]
        if not_finite(log_p).any():
            raise NotFiniteError("logits are not finite, or the sampling parameters leave no token")
        return log_p

    def edit(self, logits: Tensor, history: History, candidates: Sequence[int]) -> Tensor:
        """Scores fp32 [n, V]: logits after bias, penalties and constraint. Shares the logits' memory where it can."""
        if logits.shape[-1] < self.vocabulary_size:
            raise ValueError(f"{logits.shape[-1]} logits a row for a vocabulary of {self.vocabulary_size}")
        if len(logits) > len(candidates) + 1:
            raise ValueError(f"{len(logits)} rows of logits for {len(candidates)} candidates")
        scores = logits[:, : self.vocabulary_size].to(torch.float32)
        params = self.params
        if params.logit_bias:
            ids = upload(list(params.logit_bias), torch.long, scores.device)
            bias = upload(list(params.logit_bias.values()), torch.float32, scores.device)
            scores = scores.index_add(1, ids, bias.expand(len(scores), -1))
        if self._has_penalty:
            scores = scores.clone()
            penalise(
                scores,
                history,
                candidates,
                repetition=params.repetition_penalty,
                presence=params.presence_penalty,
                frequency=params.frequency_penalty,
            )
        if self._constraint is not None:
            scores = self._constraint.forbid(scores, history.generated, candidates)
        return scores


def log_probs_batch(
    chains: Sequence[SamplingChain],
    logits: Sequence[Tensor],
    histories: Sequence[History],
    candidates: Sequence[Sequence[int]],
    sayable: Sayable | None = None,
) -> list[Tensor]:
    """`SamplingChain.log_probs` of many sequences together: fp32 [n_i, V] each, the same numbers as alone.

    sayable: of a model that can say these tokens only; rows then have columns for them alone, [n_i, C].

    Rows that are no distribution are NaN throughout, see `not_finite`; nothing is read back to find out. Chains of
    the same stages are computed with together, and their results lie side by side in one tensor.
    Raises ValueError for fewer logits than tokens.
    """
    found: list[Tensor] = [torch.empty(0)] * len(chains)
    alike: dict[tuple[bool, ...], list[int]] = {}
    for index, chain in enumerate(chains):
        alike.setdefault(chain.stages, []).append(index)
    for members in alike.values():
        edited = [chains[index].edit(logits[index], histories[index], candidates[index]) for index in members]
        params = [chains[index].params for index, rows in zip(members, edited, strict=True) for _ in rows]
        scores = join(edited)
        if sayable is not None:
            scores = scores.index_select(1, sayable.token_ids)
        log_p = torch.log_softmax(_staged(scores, params, chains[members[0]].stages), dim=-1)
        parts = torch.split_with_sizes(log_p, [len(rows) for rows in edited])
        for index, rows in zip(members, parts, strict=True):
            found[index] = rows
    return found


def not_finite(log_p: Tensor) -> Tensor:
    """Which rows of `log_probs_batch` are no distribution: bool [n]. NaN or +infinity makes its whole row NaN."""
    return log_p[:, 0].isnan()


def _staged(scores: Tensor, params: Sequence[SamplingParams], stages: tuple[bool, ...]) -> Tensor:
    """Scores [n, V] after temperature and cuts, for the parameters of each row; all have the same stages."""
    if not any(stages):
        return scores
    has_temperature, has_top_k, has_top_p, has_min_p = stages

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return upload(values, dtype, scores.device).unsqueeze(1)

    if has_temperature:
        # Relative to the largest, so that no temperature can overflow it.
        scores = scores - scores.amax(-1, keepdim=True)
        scores = scores.div_(column([max(row.temperature, _LEAST_TEMPERATURE) for row in params], torch.float32))
    if has_top_k:
        counts = [min(row.top_k, scores.shape[-1]) for row in params]  # more than a cut vocabulary has
        largest = scores.topk(max(counts), dim=-1).values
        least = largest.gather(-1, column([count - 1 for count in counts], torch.long))
        scores = scores.masked_fill(scores < least, -math.inf)
    if has_top_p:
        size = _NUCLEUS_HEAD if scores.is_cpu else scores.shape[-1]
        scores = _nucleus(scores, column([row.top_p for row in params], torch.float64), size)
    if has_min_p:
        least = scores.amax(-1, keepdim=True) + column([math.log(row.min_p) for row in params], torch.float32)
        scores = scores.masked_fill(scores < least, -math.inf)
    return scores


def _nucleus(scores: Tensor, top_p: Tensor, size: int) -> Tensor:
    """Keeps a token iff the mass of those before it, likeliest first, is below top_p [n, 1].

    size: entries to look at first. Fewer than the row has are for the CPU only, where looking whether they were
    enough costs nothing; elsewhere that would wait for the device, and sorting is fast.
    """
    scores = scores - scores.amax(-1, keepdim=True)  # far from 0 a logarithm loses what tells likely tokens apart
    total = scores.logsumexp(-1, keepdim=True)
    size = min(size, scores.shape[-1])
    head, ids = scores.topk(size, dim=-1)
    mass = (head - total).to(torch.float64).exp().cumsum(-1)
    before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
    kept = torch.full_like(scores, -math.inf).scatter_(1, ids, head.masked_fill(before >= top_p, -math.inf))
    if size < scores.shape[-1]:
        short = (mass[:, -1:] < top_p).squeeze(1).nonzero().squeeze(1)
        if len(short):
            kept[short] = _nucleus(scores[short], top_p[short], size * 16)
    return kept
