"""Coupled draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.gumbel import (
    Counters,
    _philox_rows,
    _words,
    gumbel,
    gumbel_argmax,
    gumbel_argmax_batch,
    gumbel_argmax_rows,
    philox_words,
)
from tandem.noise import WORD, NoiseStream, Purpose, philox
from tests.statistics.goodness import fits

SAMPLES = 400_000


def rows_of(law: list[float], vocabulary: int, count: int) -> torch.Tensor:
    """log p [count, V]: the law on the last tokens of the vocabulary, the others impossible."""
    log_p = torch.full((vocabulary,), -math.inf)
    log_p[vocabulary - len(law) :] = torch.tensor(law).log()
    return log_p.expand(count, -1)


def reference_draw(log_p: torch.Tensor, stream: NoiseStream, position: int) -> int:
    """The definition, token by token, with the scalar generator and Python's logarithm."""
    best, chosen = -math.inf, -1
    for token, score in enumerate(log_p.double().tolist()):
        words = philox((token // 4, position & WORD, 0, stream.last_word(Purpose.COUPLED)), stream.key)
        noisy = score - math.log(-math.log((words[token % 4] + 0.5) / 2**32))
        if noisy > best:
            best, chosen = noisy, token
    return chosen


def test_gumbel_noise_is_finite_at_both_ends_of_a_word() -> None:
    low, high = gumbel(torch.tensor([0, WORD])).tolist()
    assert low == pytest.approx(-math.log(33 * math.log(2)))
    assert high == pytest.approx(33 * math.log(2), rel=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, WORD - 3), size=st.integers(1, 40), data=st.data())
def test_a_draw_is_the_argmax_of_log_p_and_shared_noise(
    seed: int, position: int, size: int, data: st.DataObject
) -> None:
    values = st.floats(-30, 0) | st.just(-math.inf)
    row = data.draw(st.lists(values, min_size=size, max_size=size).filter(lambda row: max(row) > -math.inf))
    log_p, stream = torch.tensor([row, row[::-1]]), NoiseStream(seed)
    found = gumbel_argmax_rows(log_p, stream, position).tolist()
    assert found == [reference_draw(log_p[0], stream, position), reference_draw(log_p[1], stream, position + 1)]
    assert gumbel_argmax(log_p[0], stream, position) == found[0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), support=st.integers(1, 60), position=st.integers(0, WORD - 8))
def test_the_narrow_path_draws_what_the_wide_one_draws(seed: int, support: int, position: int) -> None:
    size, stream = 4 * 60 + 2, NoiseStream(seed)
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.full((8, size), -math.inf)
    for row in log_p:
        ids = torch.randperm(size, generator=generator)[: 1 + int(torch.randint(support, (), generator=generator))]
        row[ids] = torch.log_softmax(torch.randn(len(ids), generator=generator) * 3, -1)
    # A ninth row over everything makes the call take the wide path; rows do not look at each other.
    wide = gumbel_argmax_rows(torch.cat([log_p, torch.zeros(1, size)]), stream, position)
    narrow = gumbel_argmax_rows(log_p, stream, position)
    assert narrow.tolist() == wide[:8].tolist()
    assert bool((log_p.gather(1, narrow.unsqueeze(1)) > -math.inf).all())


def test_a_vocabulary_grown_at_its_end_changes_no_draw() -> None:
    log_p = torch.log_softmax(torch.randn(50, 9, generator=torch.Generator().manual_seed(1)), -1)
    grown = torch.cat([log_p, torch.full((50, 2), -math.inf)], dim=-1)
    stream = NoiseStream(8)
    assert gumbel_argmax_rows(log_p, stream, 3).tolist() == gumbel_argmax_rows(grown, stream, 3).tolist()


@pytest.mark.parametrize("vocabulary", [5, 7, 64])  # 64: the narrow path
@pytest.mark.parametrize("law", [[0.5, 0.2, 0.15, 0.1, 0.05], [0.996, 0.001, 0.001, 0.001, 0.001]])
def test_coupled_draws_have_the_law_p(vocabulary: int, law: list[float]) -> None:
    drawn = gumbel_argmax_rows(rows_of(law, vocabulary, SAMPLES), NoiseStream(7, 3), 0)
    wanted = torch.zeros(vocabulary, dtype=torch.float64)
    wanted[vocabulary - 5 :] = torch.tensor(law, dtype=torch.float64)
    assert fits(drawn.bincount(minlength=vocabulary), wanted)  # error rate 1e-6


def test_coupled_draws_at_neighbouring_positions_are_independent() -> None:
    law = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    drawn = gumbel_argmax_rows(law.log().expand(SAMPLES, -1), NoiseStream(9), 0)
    pairs = (drawn[0::2] * 4 + drawn[1::2]).bincount(minlength=16)
    assert fits(pairs, law.unsqueeze(1) * law)  # error rate 1e-6


def test_draft_and_target_agree_at_least_as_often_as_promised() -> None:
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    q = torch.tensor([0.3, 0.3, 0.0, 0.4], dtype=torch.float64)
    stream = NoiseStream(10)
    one = gumbel_argmax_rows(p.log().expand(SAMPLES, -1), stream, 0)
    two = gumbel_argmax_rows(q.log().expand(SAMPLES, -1), stream, 0)
    agreement, variation = float((one == two).double().mean()), float((p - q).abs().sum() / 2)
    # Daliri et al., theorem: (1 - TV) / (1 + TV); five standard deviations of the mean are .004.
    assert (1 - variation) / (1 + variation) - 0.004 < agreement < 1 - variation + 0.004


def test_equal_laws_give_equal_draws() -> None:
    log_p = torch.log_softmax(torch.randn(1000, 30, generator=torch.Generator().manual_seed(2)), -1)
    stream = NoiseStream(11)
    assert gumbel_argmax_rows(log_p, stream, 0).tolist() == gumbel_argmax_rows(log_p.clone(), stream, 0).tolist()


def test_coupled_lanes_never_meet_the_scalars_of_other_purposes() -> None:
    stream = NoiseStream(12)
    lane0 = philox_words(torch.zeros(1, dtype=torch.long), torch.tensor([4]), stream, Purpose.COUPLED)[0].tolist()
    for purpose in set(Purpose) - {Purpose.COUPLED}:
        assert lane0 != list(philox((0, 4, 0, stream.last_word(purpose)), stream.key))


@settings(max_examples=60, deadline=None)
@given(
    seeds=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1)), min_size=1, max_size=9),
    size=st.sampled_from([7, 300, 1030]),
    data=st.data(),
)
def test_rows_of_many_streams_together_draw_what_each_draws_alone(seeds, size: int, data: st.DataObject) -> None:
    streams = [NoiseStream(*each) for each in seeds]
    positions = data.draw(st.lists(st.integers(0, WORD), min_size=len(seeds), max_size=len(seeds)))
    generator = torch.Generator().manual_seed(seeds[0][1])
    log_p = torch.log_softmax(torch.randn(len(seeds), size, generator=generator), -1)
    for row in range(0, len(seeds), 2):  # narrow ones among wide ones
        log_p[row, torch.randperm(size, generator=generator)[1 + size // 5 :]] = -math.inf
    alone = [gumbel_argmax(*each) for each in zip(log_p, streams, positions, strict=True)]
    counters = Counters.of(streams, positions)
    assert gumbel_argmax_batch(log_p, counters).tolist() == alone
    assert gumbel_argmax_batch(log_p, counters, forbids=False).tolist() == alone


def test_the_words_of_a_device_are_those_of_the_cpu() -> None:
    """On the CPU they are computed with NumPy, elsewhere with torch, which can be tried on the CPU too."""
    streams, positions = [NoiseStream(2**64 - 1 - seed, seed) for seed in range(5)], [0, 1, WORD, 2**20, 9]
    lanes = torch.tensor([[0, 1, 2, 77, 12_345, WORD]])
    counters = Counters.of(streams, positions)
    assert torch.equal(_philox_rows(lanes, *counters.to(lanes.device)), _words(lanes, counters))
