"""Presence and frequency penalties, which transformers does not have, and the history that penalties look at."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.sampling import History, SamplingChain, SamplingParams

SIZE = 12
token = st.integers(0, SIZE - 1)
texts = st.lists(token, max_size=10)
amount = st.sampled_from([0.0, 2.0, -2.0]) | st.floats(-2, 2)


def reference(logits: list[float], params: SamplingParams, prompt: list[int], generated: list[int]) -> list[float]:
    """Log-probabilities by the definitions, one token at a time: bias, repetition, presence and frequency, T."""
    scores = []
    for number, score in enumerate(logits):
        score += params.logit_bias.get(number, 0.0)
        if number in prompt or number in generated:
            penalty = params.repetition_penalty
            score = score * penalty if score < 0 else score / penalty
        count = generated.count(number)
        score -= params.frequency_penalty * count + params.presence_penalty * (count > 0)
        scores.append(score / (params.temperature or 1.0))
    largest = max(scores)
    total = largest + math.log(math.fsum(math.exp(score - largest) for score in scores))
    return [score - total for score in scores]


@settings(max_examples=300, deadline=None)
@given(
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1.0, 0.7, 3.0]),
        repetition_penalty=st.sampled_from([1.0, 0.5, 1.7]),
        presence_penalty=amount,
        frequency_penalty=amount,
        logit_bias=st.dictionaries(token, st.floats(-5, 5), max_size=3),
    ),
    logits=st.lists(st.lists(st.floats(-20, 20), min_size=SIZE, max_size=SIZE), min_size=1, max_size=5),
    prompt=texts,
    generated=texts,
    data=st.data(),
)
def test_penalties_are_the_written_definition_at_every_row(params, logits, prompt, generated, data) -> None:
    candidates = data.draw(st.lists(token, min_size=len(logits) - 1, max_size=len(logits)))
    found = SamplingChain(params, SIZE).log_probs(torch.tensor(logits), History(prompt, generated), candidates)
    for index, row in enumerate(logits):
        wanted = reference(row, params, prompt, generated + candidates[:index])
        assert found[index].tolist() == pytest.approx(wanted, abs=2e-4)


@settings(max_examples=100, deadline=None)
@given(prompt=texts, generated=texts, candidates=st.lists(token, min_size=1, max_size=6), presence=amount)
def test_rows_of_candidates_equal_rows_after_committing_them(prompt, generated, candidates, presence) -> None:
    params = SamplingParams(
        temperature=1, repetition_penalty=1.3, presence_penalty=presence, frequency_penalty=0.4, top_k=7, top_p=0.9
    )
    chain = SamplingChain(params, SIZE)
    logits = torch.randn(len(candidates) + 1, SIZE, generator=torch.Generator().manual_seed(len(prompt)))
    together = chain.log_probs(logits, History(prompt, generated), candidates)
    history = History(prompt, generated)
    for index, row in enumerate(together):
        alone = chain.log_probs(logits[index : index + 1], history)[0]
        # Sums of penalties are taken in another order; a support differs only if that moves a cut.
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-5)
        history.extend(candidates[index : index + 1])


@settings(deadline=None)
@given(prompt=texts, steps=st.lists(token | st.tuples(st.just("cut"), st.integers(0, 10)), max_size=20))
def test_a_history_that_shrinks_is_one_that_never_grew(prompt, steps) -> None:
    history, plain = History(prompt), []
    for step in steps:
        if isinstance(step, tuple):
            history.truncate(step[1])
            del plain[step[1] :]
        else:
            history.append(step)
            plain.append(step)
    fresh = History(prompt, plain)
    assert (history.generated, history.counts, history.prompt) == (fresh.generated, fresh.counts, fresh.prompt)
    assert all(history.counts.values())


def test_the_prompt_has_no_presence_or_frequency() -> None:
    params = SamplingParams(temperature=1, presence_penalty=2.0, frequency_penalty=2.0)
    chain = SamplingChain(params, 3)
    assert chain.log_probs(torch.zeros(1, 3), History([0, 0, 1]))[0].tolist() == pytest.approx([-math.log(3)] * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_k": 2**31},
        {"top_p": 0.0}, {"top_p": 1.01}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 1.1}, {"min_p": math.nan},
        {"repetition_penalty": 0.0}, {"repetition_penalty": math.inf}, {"repetition_penalty": math.nan},
        {"presence_penalty": 2.1}, {"frequency_penalty": math.nan}, {"logit_bias": {0: math.nan}},
        {"logit_bias": {0: math.inf}}, {"logit_bias": {-1: 1.0}},
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}"):
        SamplingParams(**change)


def test_what_does_not_fit_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="logit_bias names token 3"):
        SamplingChain(SamplingParams(logit_bias={3: 1.0}), 3)
    chain = SamplingChain(SamplingParams(), 3)
    with pytest.raises(ValueError, match="2 logits"):
        chain.log_probs(torch.zeros(1, 2), History([0]))
    with pytest.raises(ValueError, match="2 rows"):
        chain.log_probs(torch.zeros(2, 3), History([0]))


@settings(max_examples=300, deadline=None)
@given(old=texts, new=texts)
def test_a_history_becomes_another_text_from_where_they_part(old: list[int], new: list[int]) -> None:
    same = next((index for index, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    same = min(len(old), len(new)) if same is None else same
    for unchanged in range(-1, same + 1):
        history = History([0], old)
        history.become(new, unchanged)
        fresh = History([0], new)
        assert (history.generated, history.counts) == (fresh.generated, fresh.counts)
