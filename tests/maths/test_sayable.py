"""Rows of some tokens alone give what whole rows give in which the others have probability 0."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from draft_service.drafters.drawing import Draw, Drawn, draw_many
from tandem.gumbel import Counters, gumbel_best_batch
from tandem.noise import NoiseStream
from tandem.sampling import History, SamplingChain, SamplingParams, log_probs_batch
from tandem.sayable import Sayable
from tandem.v1 import sampling_pb2

SIZE = 300
RULES = ("GREEDY", "COUPLED", "RATIO", "BLOCK")
#: Tokens that the draft can say, beside those that it cannot: dense and sparse.
KEPT = {
    "every third": list(range(0, SIZE, 3)),
    "the first": list(range(90)),
    "a few": [0, 7, 8, 150, 299],
    "one": [42],
    "all": list(range(SIZE)),
}
SAMPLING = {
    "plain": {"temperature": 1.0},
    "top-k within": {"temperature": 0.8, "top_k": 4},
    "top-k beyond": {"temperature": 1.0, "top_k": 200},
    "top-p": {"temperature": 1.3, "top_p": 0.8},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "bias": {"temperature": 1.0, "logit_bias": {7: 3.0, 8: -math.inf, 9: 100.0, 151: -math.inf}},
    "penalties": {"temperature": 1.0, "repetition_penalty": 1.4, "presence_penalty": 1.0, "frequency_penalty": -0.5},
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.4},
}
# Both sums of a softmax are rounded, in another order.
CLOSE = {"rtol": 0.0, "atol": 2e-3}


def said(kept: list[int], seed: int = 0, count: int = 3) -> tuple[Sayable, Tensor, Tensor]:
    """The tokens, and logits [count, V] and [count, C] of a model that can say them."""
    sayable = Sayable.of(torch.tensor(kept, dtype=torch.int32))
    logits = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    part = logits[:, sayable.token_ids]
    return sayable, sayable.spread(part, SIZE), part


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_spread_rows_have_the_logits_in_their_places_and_nothing_elsewhere(kept: list[int]) -> None:
    sayable, whole, part = said(kept)
    others = sorted(set(range(SIZE)) - set(kept))
    assert torch.equal(whole[:, kept], part) and bool((whole[:, others] == -math.inf).all())
    assert sayable.ids(torch.tensor([[0, -1], [len(kept) - 1, 0]])).tolist() == [[kept[0], -1], [kept[-1], kept[0]]]


def test_tokens_beyond_a_smaller_vocabulary_are_left_out() -> None:
    sayable = Sayable.of(torch.tensor([3, 9, 20]))
    assert sayable.below(20).token_ids.tolist() == [3, 9] and sayable.below(21) is sayable
    assert sayable.below(20).words.tolist() == [3, 4 + 1]
    with pytest.raises(ValueError, match="none of the tokens that it can say is below 3"):
        sayable.below(3)


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("left", [None, 2], ids=["wide", "narrow"])
def test_coupled_draws_meet_the_noise_of_their_tokens(kept: list[int], left: int | None) -> None:
    """Which the target draws with: by token, not by column."""
    sayable, whole, part = said(kept)
    if left is not None and len(kept) > 8 * left:
        part = part.masked_fill(part < part.topk(left).values[:, -1:], -math.inf)
        whole = sayable.spread(part, SIZE)
    counters = Counters.of([NoiseStream(5)] * 3, range(10, 13))
    found = gumbel_best_batch(part, counters, 6, sayable=sayable)
    expected = gumbel_best_batch(whole, counters, 6)[:, : found.shape[1]]
    assert torch.equal(sayable.ids(found), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_what_is_drawn_and_sent_is_that_of_whole_rows(rule: str, sampling: dict, kept: list[int]) -> None:
    source = random.Random(f"{rule} {sampling}")
    sayable, whole, _ = said(kept, seed=len(kept), count=4)
    chain = SamplingChain(SamplingParams(**sampling), SIZE)
    histories = [History([kept[0], 5], [source.choice(kept) for _ in range(6)]) for _ in range(4)]
    verification = sampling_pb2.VerificationRule.Value(f"VERIFICATION_RULE_{rule}")
    draws = [
        Draw(verification, NoiseStream(9, at), 10 + at, 3, 16, 0.95, chain.forbids, foresees=True) for at in range(4)
    ]
    drawn = [
        draw_many(draws, log_probs_batch([chain] * 4, whole.split(1), histories, [()] * 4, each), each)
        for each in (sayable, None)
    ]
    for ours, theirs in zip(*drawn, strict=True):
        assert isinstance(ours, Drawn) and isinstance(theirs, Drawn)
        assert ours.token_id == theirs.token_id and ours.token_id in kept and ours.best == theirs.best
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-5)
        assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-5)
        assert ours.row is not None and theirs.row is not None
        assert ours.row.token_ids.tolist() == theirs.row.token_ids.tolist()
        torch.testing.assert_close(ours.row.log_probs, theirs.row.log_probs, **CLOSE)
        assert ours.row.tail_mass == pytest.approx(theirs.row.tail_mass, abs=1e-6)
        if theirs.full_row is not None:
            assert ours.full_row is not None
            torch.testing.assert_close(sayable.spread(ours.full_row, SIZE), theirs.full_row)
