"""Between the logits and the one transfer back nothing waits for the device, whatever is asked and by however many.

The steps run on torch's `meta` device, whose tensors have no values: whatever would read one (`item`, a branch on a
tensor, a boolean mask as an index, a copy to the host) raises there.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from draft_service.drafters import drawing
from draft_service.drafters.drawing import Draw, Drawn, draw_many
from tandem.sampling import log_probs_batch
from tandem.v1 import sampling_pb2
from target_service import verification
from target_service.verification import Block, Rule, next_tokens, verify_many
from tests.support.steps import Session, histories, session

SIZE = 1030
VERIFICATION = {
    Rule.GREEDY: sampling_pb2.VERIFICATION_RULE_GREEDY,
    Rule.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO,
    Rule.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK,
    Rule.COUPLED: sampling_pb2.VERIFICATION_RULE_COUPLED,
}
Move = Callable[[Tensor], Tensor]


class Host:
    """Stands for the host: takes what comes back in one piece, and gives zeros of the same shapes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: object) -> None:
        self.transfers = 0
        for module in modules:
            monkeypatch.setattr(module, "to_host", self._take)

    def _take(self, groups: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        self.transfers += 1
        assert all(tensor.is_meta for group in groups for tensor in group.values())
        return [
            {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in group.items()} for group in groups
        ]


def verify_step(sessions: list[Session], move: Move) -> list:
    chains = [each.chain() for each in sessions]
    logits = [move(each.logits) for each in sessions]
    candidates = [each.candidates for each in sessions]
    blocks = [
        Block(each.rule, each.candidates, each.rows, each.noise, 4, chain.forbids, each.max_entries, each.mass)
        for each, chain in zip(sessions, chains, strict=True)
    ]
    return verify_many(blocks, log_probs_batch(chains, logits, histories(sessions), candidates))


def decode_step(sessions: list[Session], move: Move) -> list:
    chains = [each.chain() for each in sessions]
    logits = [move(each.logits[:1]) for each in sessions]
    blocks = [Block(each.rule, (), None, each.noise, 4, True, each.max_entries, each.mass) for each in sessions]
    return next_tokens(blocks, log_probs_batch(chains, logits, histories(sessions), [()] * len(sessions)))


def draft_step(sessions: list[Session], move: Move) -> list:
    chains = [each.chain() for each in sessions]
    logits = [move(each.logits[:1]) for each in sessions]
    draws = [
        Draw(VERIFICATION[each.rule], each.noise, 4, 1, each.max_entries or 5 * each.rule.draws_residuals, each.mass)
        for each in sessions
    ]
    return draw_many(draws, log_probs_batch(chains, logits, histories(sessions), [()] * len(sessions)))


STEPS = {"verify": verify_step, "decode": decode_step, "draft": draft_step}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_a_step_brings_its_numbers_back_once(monkeypatch, step: str, count: int) -> None:
    for start in range(0, 120, count):
        host = Host(monkeypatch, verification, drawing)
        sessions = [session(seed, SIZE) for seed in range(start, start + count)]
        results = STEPS[step](sessions, lambda rows: rows.to("meta"))
        assert len(results) == count and not any(isinstance(result, Exception) for result in results)
        assert host.transfers == 1


def test_full_rows_stay_on_the_device(monkeypatch) -> None:
    Host(monkeypatch, drawing)
    sessions = [session(seed, SIZE, rule=Rule.GREEDY) for seed in range(10)]
    for each in sessions:
        each.max_entries = 8
    for drawn in draft_step(sessions, lambda rows: rows.to("meta")):
        assert isinstance(drawn, Drawn) and drawn.full_row is not None and drawn.full_row.is_meta


@pytest.mark.parametrize(
    "read",
    [
        lambda row: row.tolist(),
        lambda row: float(row[0]),
        lambda row: bool(row.any()),
        lambda row: row.cpu(),
        lambda row: row[row > 0],
        lambda row: row.nonzero(),
    ],
)
def test_this_device_refuses_to_be_read(read) -> None:
    """Otherwise the tests above would say nothing."""
    with pytest.raises((NotImplementedError, RuntimeError)):
        read(torch.zeros(3, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("step", STEPS)
def test_a_gpu_is_waited_for_once_a_step(step: str) -> None:
    sessions = [session(seed, SIZE) for seed in range(20)]
    logits = {id(each): each.logits.cuda() for each in sessions}
    moved = {(id(each), rows): logits[id(each)][:rows] for each, rows in itertools.product(sessions, (1, 6))}
    expected = STEPS[step](sessions, lambda rows: rows)

    def run() -> list:
        on_device = iter([moved[id(each), 6] if step == "verify" else moved[id(each), 1] for each in sessions])
        return STEPS[step](sessions, lambda rows: next(on_device))

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in caught if "synchroniz" in str(each.message)]) == 1
    for one, two in zip(found, expected, strict=True):
        token = "corrections" if step == "verify" else "token_id"
        assert getattr(one, token) == getattr(two, token)
