"""The sampling chain against transformers' own."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.sampling import History, NotFiniteError, SamplingChain, SamplingParams
from tests.maths.transformers_chain import check, production, scores

SIZE = 40
logit = st.floats(-40, 40, width=32) | st.sampled_from([-1.0, 0.0, 0.5, 1.0])
rows = st.lists(st.lists(logit, min_size=SIZE, max_size=SIZE), min_size=1, max_size=4)
token = st.integers(0, SIZE - 1)
texts = st.lists(token, max_size=8)
biases = st.dictionaries(token, st.floats(-30, 30, width=32) | st.just(-math.inf), max_size=4)
parameters = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5),
    top_k=st.sampled_from([0, 0, 1, 2, 5, SIZE - 1, SIZE, SIZE + 1, 2**31 - 1]),
    top_p=st.sampled_from([1.0, 1.0]) | st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0, 1),
    repetition_penalty=st.sampled_from([1.0, 1.0]) | st.floats(0.3, 3),
    logit_bias=biases,
)


@settings(max_examples=300, deadline=None)
@given(params=parameters, logits=rows, prompt=st.lists(token, min_size=1, max_size=8), generated=texts, data=st.data())
def test_the_chain_is_transformers_chain(params, logits, prompt, generated, data: st.DataObject) -> None:
    logits = torch.tensor(logits)
    size = len(logits) - 1
    candidates = data.draw(st.lists(token, min_size=size, max_size=size + 2))
    for index, row in enumerate(production(params, logits, prompt, generated, candidates)):
        check(params, logits[index], row)


def test_cuts_that_all_act_come_in_transformers_order() -> None:
    """Rows so flat that each cut leaves work to the next: in another order they would leave another support."""
    drawn = random.Random(3)
    supports = set()
    for seed in range(400):
        logits = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(seed)) * drawn.choice([0.5, 1.0, 2.0])
        params = SamplingParams(
            temperature=drawn.uniform(0.4, 1.5),
            top_k=drawn.randint(4, 30),
            top_p=drawn.uniform(0.5, 0.98),
            min_p=drawn.choice([0.0, 0.02, 0.1, 0.3]),
            repetition_penalty=drawn.choice([0.6, 1.4, 2.5]),
            logit_bias={drawn.randrange(SIZE): drawn.uniform(-3, 3) for _ in range(4)},
        )
        prompt, candidates = drawn.choices(range(SIZE), k=9), drawn.choices(range(SIZE), k=2)
        for index, row in enumerate(production(params, logits, prompt, [], candidates)):
            check(params, logits[index], row)
            supports.add(int((row.log_p > -math.inf).sum()))
    assert len(supports) > 15


@settings(max_examples=100, deadline=None)
@given(params=parameters, logits=rows, prompt=st.lists(token, min_size=1, max_size=8), generated=texts)
def test_at_temperature_0_the_likeliest_token_is_transformers(params, logits, prompt, generated) -> None:
    greedy = SamplingParams(
        temperature=0, repetition_penalty=params.repetition_penalty, logit_bias=params.logit_bias,
        top_k=params.top_k, top_p=params.top_p, min_p=params.min_p,
    )  # fmt: skip
    logits = torch.tensor(logits[:1])
    row = production(greedy, logits, prompt, generated, ())[0]
    wanted = scores(greedy, logits[0], row.text)
    # In fp32 what differs in the eighth digit is equal, and the lowest id is taken.
    assert float(wanted.max() - wanted[row.log_p.argmax()]) <= 1e-5
    torch.testing.assert_close(row.log_p.double(), torch.log_softmax(wanted, -1), rtol=1e-5, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(logits=rows, top_k=st.integers(1, 9), top_p=st.floats(0.05, 0.99), min_p=st.floats(0, 1))
def test_temperature_0_cuts_nothing(logits, top_k: int, top_p: float, min_p: float) -> None:
    cutting = SamplingParams(temperature=0, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = torch.tensor(logits[:1])
    found = SamplingChain(cutting, SIZE).log_probs(logits, History([0]))
    assert torch.equal(found, torch.log_softmax(logits, -1))


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(temperature=1, top_k=1), {1, 3, 5}),  # all that tie with the k-th, as transformers
        (SamplingParams(temperature=1, top_k=4), {0, 1, 2, 3, 4, 5}),
        (SamplingParams(temperature=1, min_p=1), {1, 3, 5}),
        (SamplingParams(temperature=1, top_p=1e-9), None),
    ],
)
def test_ties_are_cut_as_transformers_cuts_them(params: SamplingParams, kept: set[int] | None) -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]])
    row = production(params, logits, [0], [], [])[0]
    found = (row.log_p > -math.inf).nonzero().flatten().tolist()
    check(params, logits[0], row)
    if kept is None:
        assert len(found) == 1 and found[0] in {1, 3, 5}
    else:
        assert set(found) == kept


@pytest.mark.parametrize("top_p", [0.1013, 0.2617, 0.4927, 0.5137, 0.7411, 0.7623, 0.9913])
@pytest.mark.parametrize("size", [4, 300, 5000])
def test_top_p_keeps_as_many_of_equal_tokens_as_transformers(top_p: float, size: int) -> None:
    logits = torch.zeros(1, size)  # more than 256 equal tokens: the search for the nucleus is widened
    row = production(SamplingParams(temperature=1, top_p=top_p), logits, [0], [], [])[0]
    wanted = scores(SamplingParams(temperature=1, top_p=top_p), logits[0], [0])
    assert int((row.log_p > -math.inf).sum()) == int(wanted.isfinite().sum())  # which of them is not defined


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.3, 0.9999), scale=st.floats(0.01, 3))
def test_a_nucleus_wider_than_the_first_look_is_whole(seed: int, top_p: float, scale: float) -> None:
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(seed)) * scale
    params = SamplingParams(temperature=1, top_p=top_p)
    for index, row in enumerate(production(params, logits, [0], [], [1])):
        check(params, logits[index], row)


@pytest.mark.parametrize("magnitude", [1e4, 1e30, 3e38])
@pytest.mark.parametrize("temperature", [1e-45, 1e-6, 1.0, 1e6])
def test_extreme_logits_and_temperatures_give_a_distribution(magnitude: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, magnitude, -magnitude, magnitude, -math.inf]])
    params = SamplingParams(temperature=temperature, top_p=0.999, min_p=1e-5, top_k=4)
    log_p = SamplingChain(params, 5).log_probs(logits, History([0]))[0]
    assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=1e-6)
    assert log_p[1] == log_p[3] == log_p.max() and log_p[4] == -math.inf
    if magnitude / temperature > 1e3:
        assert log_p[1] == pytest.approx(-math.log(2)) and log_p[0] == log_p[2] == -math.inf


def test_impossible_tokens_stay_impossible_through_the_whole_chain() -> None:
    logits = torch.tensor([[3.0, -math.inf, 1.0, 2.0]])
    params = SamplingParams(
        temperature=0.5, top_k=3, top_p=0.999, min_p=1e-6, repetition_penalty=0.5, presence_penalty=-2.0,
        frequency_penalty=-2.0, logit_bias={1: 90.0, 2: -math.inf},
    )  # fmt: skip
    log_p = SamplingChain(params, 4).log_probs(logits, History([1], [2, 1, 2]))[0]
    assert (log_p == -math.inf).tolist() == [False, True, True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1),
        SamplingParams(temperature=0.7, top_k=2, top_p=0.9, min_p=0.1, repetition_penalty=1.2, presence_penalty=1.0),
    ],
)
def test_rows_that_are_no_distribution_are_refused(bad: float, place: int, params: SamplingParams) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    logits[1, place] = bad
    with pytest.raises(NotFiniteError):
        SamplingChain(params, 4).log_probs(logits, History([0]), [0])


def test_a_row_without_any_token_is_refused() -> None:
    chain = SamplingChain(SamplingParams(temperature=1, logit_bias={0: -math.inf, 1: -math.inf}), 2)
    with pytest.raises(NotFiniteError):
        chain.log_probs(torch.zeros(1, 2), History([0]))


def test_padding_of_the_output_layer_is_cut_off_and_logits_are_not_changed() -> None:
    logits = torch.tensor([[1.0, 2.0, 99.0]], dtype=torch.bfloat16)
    params = SamplingParams(temperature=1, repetition_penalty=2.0, logit_bias={0: 1.0})
    found = SamplingChain(params, 2).log_probs(logits, History([0, 1]))
    assert found.shape == (1, 2) and found.dtype == torch.float32
    assert found[0].tolist() == pytest.approx([-math.log(2)] * 2)  # (1 + 1) / 2 = 2 / 2
    assert logits.tolist() == [[1.0, 2.0, 99.0]]
    kept = torch.randn(2, 9)
    before = kept.clone()
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.8, presence_penalty=1.0, frequency_penalty=1.0)
    SamplingChain(params, 9).log_probs(kept, History([0], [1]), [2])
    assert torch.equal(kept, before)
