"""Brackets on the rows of the embedded pair of models, over its vocabulary of 49 152."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator.acceptance import Bracket
from orchestrator.acceptance.distance_rule import threshold_chances
from tandem.brackets import Distances, distances, full_row_distance, probabilities, stack
from tandem.compression import compress, full_law
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import Block, ModelRunner
from tandem.models import resolve
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.tokenization import Tokenizer
from tests.maths import reference

TEXT = """The ferry left at six, an hour late, with eleven bicycles and a piano on the lower deck. Nobody had asked
about the piano. "It goes to my sister," said the man in the yellow coat, "who has not played since 1987." In C:

    int sum(const int *values, int count) { int total = 0; for (int i = 0; i < count; i++) total += values[i]; return

Q: A train travels 60 km in 45 minutes. How fast is it? A: 45 minutes are 0.75 hours, and 60 / 0.75 = 80 km/h. 1, 1, 2,
3, 5, 8, 13, 21, 34. Le chat dort sur la chaise."""
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """log p and log q [n, V] after each token of the text, at temperature 0 of the sampling chain."""
    found = []
    for name in ("embedded:smollm2", "embedded:smollm2-draft"):
        folder = resolve(name)
        tokens = Tokenizer.from_folder(tokenizer_folder(folder)).encode(TEXT)
        runner = ModelRunner(load_model(folder, device="cpu"))
        logits = runner.forward([Block(runner.open(), tokens, len(tokens))])[0]
        chain = SamplingChain(SamplingParams(), runner.loaded.vocabulary_size)
        found.append(chain.log_probs(logits, History(()), tokens))
    assert found[0].shape == found[1].shape and len(found[0]) > 100
    return found[0], found[1]


@pytest.fixture(scope="module")
def full(rows: tuple[Tensor, Tensor]) -> Tensor:
    """[n, 2]: distance and total variation by the full fp16 rows."""
    return torch.tensor([full_row_distance(p, q.to(torch.float16)) for p, q in zip(*rows, strict=True)]).double()


def cut(rows: tuple[Tensor, Tensor], k: int, mass: float = 1.0) -> Distances:
    log_p, log_q = rows
    return distances(probabilities(log_p), stack([compress(row, k, mass) for row in log_q], log_p.device))


def test_the_distance_of_full_rows_is_its_definition(rows, full) -> None:
    for index in range(0, len(full), 30):
        p, q = probabilities(rows[0][index]), full_law(rows[1][index].to(torch.float16))
        assert float(full[index, 0]) == pytest.approx(reference.distance(p, q), abs=1e-7)


@pytest.mark.parametrize("k", WIDTHS)
def test_the_bracket_contains_the_true_distance_of_real_rows(rows, full, k: int) -> None:
    found = cut(rows, k)
    assert bool((found.lower <= full[:, 0] + 1e-7).all()) and bool((full[:, 0] <= found.upper + 1e-7).all())
    assert bool((full[:, 1] <= found.total_variation + 1e-7).all())


def test_the_bracket_contains_the_true_distance_where_the_mass_is_bounded(rows, full) -> None:
    found = cut(rows, 256, 0.999)
    assert bool((found.lower <= full[:, 0] + 1e-7).all()) and bool((full[:, 0] <= found.upper + 1e-7).all())


def test_real_rows_are_neither_all_near_nor_all_far(full) -> None:
    """Otherwise the tests of this file would say little."""
    assert float(full[:, 0].min()) < 0.2 and float(full[:, 0].max()) > 0.6


def test_256_entries_of_a_real_row_leave_little_open(rows, full) -> None:
    found = cut(rows, 256, 0.999)
    assert float((found.upper - found.lower).mean()) < 0.1
    for threshold in (0.2, 0.32, 0.5):
        opened = (found.lower < threshold) & (threshold <= found.upper)
        assert float(opened.double().mean()) < 0.15


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.32, 0.45, 0.6])
def test_a_bracket_beside_the_threshold_decides_as_the_full_row(rows, full, threshold: float) -> None:
    found = cut(rows, 64)
    decided = 0
    for lower, upper, distance in zip(found.lower.tolist(), found.upper.tolist(), full[:, 0].tolist(), strict=True):
        chances = set(threshold_chances(Bracket(lower, upper), threshold))
        if len(chances) == 1:
            decided += 1
            assert chances == set(threshold_chances(Bracket(distance, distance), threshold))
    assert decided > len(full) / 2
