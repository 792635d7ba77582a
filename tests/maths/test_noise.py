"""Counter-based random numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tandem.noise
from tandem.gumbel import philox_words
from tandem.noise import WORD, NoiseStream, Purpose, philox
from tests.statistics.goodness import ERROR_RATE, fits, g_test
from tests.statistics.seeds import uniforms

seeds, positions, attempts = st.integers(0, 2**64 - 1), st.integers(0, WORD), st.integers(0, WORD)
choices, purposes = st.integers(0, 2**24 - 1), st.sampled_from(Purpose)
SAMPLES = 200_000


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


# Random123's own known answers (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_known_answers(counter: str, key: str, answer: str) -> None:
    assert philox(words(counter), words(key)) == words(answer)


@settings(deadline=None)
@given(lanes=st.lists(positions, min_size=1, max_size=5), position=positions, seed=seeds, choice=choices)
def test_the_vector_version_equals_the_scalar_one(lanes: list[int], position: int, seed: int, choice: int) -> None:
    stream = NoiseStream(seed, choice)
    for purpose in Purpose:
        found = philox_words(torch.tensor(lanes), torch.tensor(position), stream, purpose)
        wanted = [philox((lane, position, 0, stream.last_word(purpose)), stream.key) for lane in lanes]
        assert [tuple(row) for row in found.tolist()] == wanted


def test_the_vector_version_broadcasts_lanes_and_positions() -> None:
    stream = NoiseStream(5)
    lanes, places = torch.tensor([0, 7, WORD]), torch.tensor([[1], [WORD]])
    found = philox_words(lanes, places, stream, Purpose.COUPLED)
    assert found.shape == (2, 3, 4)
    for row, column in itertools.product(range(2), range(3)):
        counter = (int(lanes[column]), int(places[row, 0]), 0, stream.last_word(Purpose.COUPLED))
        assert tuple(found[row, column].tolist()) == philox(counter, stream.key)


@settings(deadline=None)
@given(seed=seeds, choice=choices, purpose=purposes, position=positions, attempt=attempts)
def test_a_uniform_is_53_bits_of_its_own_counter(
    seed: int, choice: int, purpose: Purpose, position: int, attempt: int
) -> None:
    found = NoiseStream(seed, choice).uniform(purpose, position, attempt)
    counter = (0, position, attempt, choice << 8 | int(purpose))
    high, low, _, _ = philox(counter, (seed & WORD, seed >> 32))
    assert found == math.ldexp((high >> 5) * 2**26 + (low >> 6), -53)  # 27 bits and 26 bits
    assert 0 <= found < 1


numbers = st.tuples(seeds, choices, purposes, positions, attempts)


@settings(deadline=None)
@given(one=numbers, place=st.integers(0, 4), data=st.data())
def test_streams_differ_where_any_part_of_the_key_differs(one: tuple, place: int, data: st.DataObject) -> None:
    kinds = (seeds, choices, purposes, positions, attempts)
    other = list(one)
    other[place] = data.draw(kinds[place].filter(lambda value: value != one[place]))

    def draw(number: tuple) -> float:
        return NoiseStream(number[0], number[1]).uniform(*number[2:])

    assert draw(one) == draw(tuple(one))
    assert draw(one) != draw(tuple(other))  # wrong by chance once in 2**53


def test_the_fourth_word_tells_every_choice_and_purpose_apart() -> None:
    last = [NoiseStream(0, choice).last_word(p) for choice in (0, 1, 255, 256, 2**24 - 1) for p in Purpose]
    assert len(set(last)) == len(last) and max(last) <= WORD


def test_positions_and_attempts_wrap_at_32_bits() -> None:
    stream = NoiseStream(3)
    assert stream.uniform(Purpose.DRAFT, 2**32 + 5, 2**32 + 2) == stream.uniform(Purpose.DRAFT, 5, 2)


@pytest.mark.parametrize(("seed", "choice"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**24)])
def test_keys_out_of_range_are_refused(seed: int, choice: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        NoiseStream(seed, choice)


@pytest.mark.parametrize(("answer", "number"), [(0, 0.0), (WORD, 1 - 2**-53)])
def test_uniforms_are_half_open_at_the_extremes(monkeypatch, answer: int, number: float) -> None:
    monkeypatch.setattr(tandem.noise, "philox", lambda counter, key: (answer,) * 4)
    assert NoiseStream(0).uniform(Purpose.ACCEPT, 0) == number < 1


def test_uniforms_of_an_array_of_seeds_are_those_of_each_seed() -> None:
    many = np.array([0, 1, 2**32, 2**64 - 1], dtype=np.uint64)
    places = np.array([0, 9, 9, 2**32 - 1])
    found = uniforms(many, Purpose.DRAFT, places, 3).tolist()
    wanted = [
        NoiseStream(int(seed)).uniform(Purpose.DRAFT, int(place), 3) for seed, place in zip(many, places, strict=True)
    ]
    assert found == wanted


@pytest.mark.parametrize("purpose", Purpose)
def test_uniforms_are_uniform(purpose: Purpose) -> None:
    # Error rate 1e-6 a purpose: over consecutive seeds, and over the positions of one seed.
    flat = torch.full((64,), 1 / 64)
    over_seeds = uniforms(np.arange(SAMPLES), purpose, 11)
    over_positions = uniforms(np.full(SAMPLES, 42), purpose, np.arange(SAMPLES))
    for drawn in (over_seeds, over_positions):
        assert fits((drawn * 64).long().bincount(minlength=64), flat)


def _pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    keys = np.arange(SAMPLES)
    base = uniforms(keys, Purpose.DRAFT, 5, 1)
    found = {f"{one.name}-{two.name}": (uniforms(keys, one, 5), uniforms(keys, two, 5))
             for one, two in itertools.combinations(Purpose, 2)}  # fmt: skip
    found["position"] = base, uniforms(keys, Purpose.DRAFT, 6, 1)
    found["attempt"] = base, uniforms(keys, Purpose.DRAFT, 5, 2)
    found["seed"] = base, uniforms(keys + 1, Purpose.DRAFT, 5, 1)
    found["position and attempt"] = base, uniforms(keys, Purpose.DRAFT, 1, 5)
    return found


def _grid(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return ((one * 16).long() * 16 + (two * 16).long()).bincount(minlength=256)


def test_streams_are_independent_in_pairs() -> None:
    flat = torch.full((256,), 1 / 256)
    pairs = _pairs()
    chances = {name: g_test(_grid(*pair), flat) for name, pair in pairs.items()}
    assert min(chances.values()) > ERROR_RATE / len(pairs), chances  # error rate 1e-6 for all of them together


def test_the_check_of_independence_sees_a_shared_stream() -> None:
    one = uniforms(np.arange(SAMPLES), Purpose.DRAFT, 5)
    assert not fits(_grid(one, one), torch.full((256,), 1 / 256))


@settings(max_examples=60, deadline=None)
@given(
    draws=st.lists(st.tuples(seeds, choices, st.integers(0, 2**40), attempts), max_size=60),
    purpose=purposes,
    again=st.booleans(),
)
def test_numbers_of_many_streams_at_once_are_those_of_each(draws: list[tuple], purpose: Purpose, again: bool) -> None:
    """Few are computed one by one, many as arrays."""
    streams = [NoiseStream(seed, choice) for seed, choice, _, _ in draws]
    at, tries = [position for *_, position, _ in draws], [attempt for *_, attempt in draws] if again else None
    found = tandem.noise.uniforms(streams, purpose, at, tries)
    tried = tries or [0] * len(draws)
    wanted = [stream.uniform(purpose, *each) for stream, *each in zip(streams, at, tried, strict=True)]
    assert found == wanted
    if draws:  # however few or many are asked for, a number is the same
        assert tandem.noise.uniforms(streams[:1] * 40, purpose, at[:1] * 40, tried[:1] * 40) == wanted[:1] * 40
