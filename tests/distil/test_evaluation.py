"""What is measured is what a draft would do: agreement, chance of acceptance, tokens of a round."""

from __future__ import annotations

import math
import random

import pytest
import torch

from tandem.distil.curve import fit
from tandem.distil.evaluation import CANDIDATES, Evaluation, as_json, evaluate, expected_tokens, rounds
from tandem.distil.loss import Places
from tests.distil.answers import CPU, VOCABULARY, llama, student_of, write

TARGET = llama()
SAMPLES = write(TARGET, 60, kept=VOCABULARY)
CAN = list(range(0, VOCABULARY, 2))


def measured(layers: int = 2, can: list[int] | None = None, kept: int = VOCABULARY, **facts: int) -> Evaluation:
    token_ids = can or list(range(VOCABULARY))
    return evaluate(
        student_of(TARGET, layers, token_ids),
        SAMPLES if kept == VOCABULARY else write(TARGET, 60, kept=kept),
        Places(torch.tensor(token_ids), VOCABULARY),
        **{"total_variation": 0.5, "batch_tokens": 300, "precision": "float32", "processes": CPU, **facts},
    )


def test_the_target_itself_foresees_everything() -> None:
    found = measured(layers=4)
    assert found.loss == pytest.approx(0, abs=1e-3)
    assert (found.greedy_agreement, found.sayable) == (1.0, 1.0)
    assert found.one_minus_tv == pytest.approx(1.0, abs=1e-3)
    assert found.places == sum(len(sample.answer) for sample in SAMPLES)


def test_greedy_agreement_is_along_greedy_answers_and_acceptance_along_those_sampled_at_1() -> None:
    found = measured(can=CAN)
    student = student_of(TARGET, 2, CAN)
    agreed, overlaps = [], []
    for sample in SAMPLES:
        start = sample.prompt_length - 1
        tokens = sample.tokens[None].long()
        with torch.no_grad():
            q = student(tokens, torch.arange(start, len(sample.tokens) - 1)).softmax(1)
            p = TARGET(input_ids=tokens).logits[0, start:-1].softmax(1)
        if sample.temperature == 0:
            agreed += (torch.tensor(CAN)[q.argmax(1)] == p.argmax(1)).tolist()
        if sample.temperature == 1:
            overlaps += torch.minimum(p[:, CAN], q).sum(1).tolist()
    assert found.greedy_agreement == pytest.approx(sum(agreed) / len(agreed))
    assert 0 < found.greedy_agreement < 1
    assert found.one_minus_tv == pytest.approx(sum(overlaps) / len(overlaps), abs=1e-3)
    said = [int(token) in CAN for sample in SAMPLES for token in sample.answer]
    assert found.sayable == pytest.approx(sum(said) / len(said))


def test_with_some_entries_kept_the_truth_lies_between_the_two_figures() -> None:
    whole, some = measured(), measured(kept=4)
    assert some.one_minus_tv < whole.one_minus_tv < some.one_minus_tv_at_most
    assert some.greedy_agreement == whole.greedy_agreement


def test_how_answers_are_batched_changes_nothing() -> None:
    one, other = as_json(measured(batch_tokens=1)), as_json(measured(batch_tokens=10_000))
    for name, value in one.items():
        assert value == pytest.approx(other[name], abs=2e-4), name


def simulated(matches: list[bool], candidates: int) -> int:
    """Round by round, as an orchestrator does it."""
    count = done = 0
    while done < len(matches):
        kept = 0
        while kept < candidates and done + kept < len(matches) and matches[done + kept]:
            kept += 1
        done += kept + 1  # the target's own token
        count += 1
    return count


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_a_text_is_walked_in_rounds_as_decoding_does(candidates: int) -> None:
    draw = random.Random(candidates)
    for length in range(1, 40):
        matches = [draw.random() < 0.6 for _ in range(length)]
        assert rounds(matches, candidates) == simulated(matches, candidates)
    assert rounds([False] * 7, candidates) == 7
    assert rounds([True] * (candidates + 1) * 3, candidates) == 3


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_expected_tokens_are_the_sum_of_the_chances_to_get_so_far(candidates: int) -> None:
    accepted = torch.rand(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [
        1 + sum(math.prod(accepted[start : start + far].tolist()) for far in range(1, min(candidates, 12 - start) + 1))
        for start in range(12)
    ]
    torch.testing.assert_close(expected_tokens(accepted, candidates), torch.tensor(wanted, dtype=torch.float64))


def test_without_greedy_or_sampled_answers_the_others_are_measured() -> None:
    only = write(TARGET, 20, kept=VOCABULARY, temperatures=(0.7,))
    found = evaluate(
        student_of(TARGET), only, Places(torch.arange(VOCABULARY), VOCABULARY), total_variation=0.5, batch_tokens=300,
        precision="float32", processes=CPU,
    )  # fmt: skip
    assert 0 < found.greedy_agreement < 1 and 0 < found.one_minus_tv < 1
    assert found.tokens_per_round_greedy == found.tokens_per_round_temperature_1 == {}


def test_a_curve_is_fitted_in_the_logarithm_of_tokens_and_goes_on_to_ten_times_as_many() -> None:
    curve = [{"tokens": 1000 * 2**n, "greedy_agreement": 0.1 + 0.05 * math.log(1000 * 2**n)} for n in range(4)]
    found = fit(curve, "greedy_agreement")
    assert found is not None
    assert (found.a, found.b, found.tokens) == (pytest.approx(0.1), pytest.approx(0.05), 8000)
    assert found.ten_times == pytest.approx(0.1 + 0.05 * math.log(80_000), abs=1e-4)
    assert fit(curve[:1], "greedy_agreement") is None
