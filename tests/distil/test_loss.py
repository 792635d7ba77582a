"""The loss is what a direct computation over all tokens gives, or a lower bound of it where only some were kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tandem.distil.loss import Places, divergences, loss

SIZE = 24
CAN = torch.tensor([0, 1, 3, 4, 7, 8, 9, 12, 15, 16, 20, 23])
ALL = torch.arange(SIZE)


def rows(seed: int, count: int = 32, size: int = SIZE, sharp: float = 2.0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * sharp


def kept(p_logits: Tensor, count: int, can: Tensor) -> tuple[Tensor, Tensor]:
    top = p_logits.log_softmax(1).topk(count)
    return Places(can, SIZE)(top.indices), top.values


def directly(p_logits: Tensor, q_logits: Tensor, can: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL and TV of p restricted to `can` and renormalised, and 1 - TV of p as it is."""
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    here = p[:, can] / p[:, can].sum(1, keepdim=True)
    kl = (here * (here.log() - q.log())).sum(1)
    return kl, (here - q).abs().sum(1) / 2, torch.minimum(p[:, can], q).sum(1)


@pytest.mark.parametrize("can", [ALL, CAN], ids=["all", "some"])
def test_with_all_entries_kept_it_is_the_direct_computation(can: Tensor) -> None:
    p, q = rows(0), rows(1, size=len(can))
    found = divergences(q, *kept(p, SIZE, can))
    kl, tv, overlap = directly(p, q, can)
    torch.testing.assert_close(found.kl.double(), kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.tv.double(), tv, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.overlap.double(), overlap, atol=1e-5, rtol=1e-4)
    assert bool(found.counted.all())


def test_so_are_its_gradients() -> None:
    p, q = rows(0), rows(1, size=len(CAN)).requires_grad_()
    loss(divergences(q, *kept(p, SIZE, CAN)), 0.5).backward()
    found, q.grad = q.grad, None
    kl, tv, _ = directly(p, q, CAN)
    (kl + 0.5 * tv).sum().backward()
    torch.testing.assert_close(found, q.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_with_some_entries_kept_it_is_a_lower_bound_that_more_entries_raise(count: int) -> None:
    p, q = rows(2), rows(3)
    kl, tv, _ = directly(p, q, ALL)
    some, more = (divergences(q, *kept(p, number, ALL)) for number in (count, count + 4))
    for low, high, whole in ((some.kl, more.kl, kl), (some.tv, more.tv, tv)):
        assert bool((low <= high + 1e-5).all()) and bool((high <= whole + 1e-5).all())
        assert bool((low < whole - 1e-3).any())


@pytest.mark.parametrize("count", [1, 4, 12])
def test_what_was_not_kept_is_one_bucket(count: int) -> None:
    p, q = rows(2).softmax(1), rows(3).softmax(1)
    ids = p.topk(count).indices
    kept_p, kept_q = p.gather(1, ids), q.gather(1, ids)
    coarse_p, coarse_q = (torch.cat([row, 1 - row.sum(1, keepdim=True)], 1) for row in (kept_p, kept_q))
    found = divergences(rows(3), *kept(rows(2), count, ALL))
    kl = (coarse_p * (coarse_p / coarse_q).log()).sum(1)
    torch.testing.assert_close(found.kl.double(), kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.tv.double(), (coarse_p - coarse_q).abs().sum(1) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_the_chance_of_acceptance_lies_between_the_two_overlaps(count: int) -> None:
    p, q = rows(4), rows(5, size=len(CAN))
    found = divergences(q, *kept(p, count, CAN))
    overlap = directly(p, q, CAN)[2]
    assert bool((found.overlap <= overlap + 1e-5).all()) and bool((overlap <= found.most + 1e-5).all())
    assert bool((found.overlap < overlap - 1e-3).any()) and bool((overlap < found.most - 1e-3).any())


def test_a_draft_that_is_its_target_has_none() -> None:
    p = rows(6)
    for count in (3, SIZE):
        found = divergences(p, *kept(p, count, ALL))
        assert float(found.kl.abs().max()) < 1e-4 and float(found.tv.max()) < 1e-5


def test_a_place_of_which_the_draft_can_say_nothing_counts_for_nothing() -> None:
    q = rows(7, count=2, size=len(CAN)).requires_grad_()
    top_places, log_p = torch.tensor([[-1, -1], [0, -1]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    found = divergences(q, top_places, log_p)
    assert found.counted.tolist() == [False, True]
    assert [each[0].item() for each in (found.kl, found.tv, found.overlap)] == [0.0, 0.0, 0.0]
    loss(found, 1.0).backward()
    assert bool(torch.isfinite(q.grad).all()) and float(q.grad[0].abs().max()) == 0.0 < float(q.grad[1].abs().max())


def test_impossible_entries_and_a_draft_that_is_sure_of_another_token_give_finite_numbers() -> None:
    q = torch.zeros(1, SIZE).index_fill(1, torch.tensor([5]), 80.0).requires_grad_()
    log_p = torch.tensor([[0.0, -float("inf")]]).half()
    found = divergences(q, torch.tensor([[0, 1]]), log_p)
    loss(found, 0.5).backward()
    assert found.kl.item() == pytest.approx(80.0, abs=0.1)
    assert bool(torch.isfinite(q.grad).all())


def test_half_precision_of_what_was_kept_changes_it_little() -> None:
    p, q = rows(8), rows(9)
    places, log_p = kept(p, 8, ALL)
    exact, rounded = divergences(q, places, log_p), divergences(q, places, log_p.half())
    torch.testing.assert_close(exact.kl, rounded.kl, atol=0.02, rtol=0.02)


def test_places_are_those_of_the_cut_vocabulary() -> None:
    ids = torch.tensor([[0, 3, 5], [23, 2, 12]], dtype=torch.int32)
    assert Places(CAN.int(), SIZE)(ids).tolist() == [[0, 2, -1], [11, -1, 7]]
