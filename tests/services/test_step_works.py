"""The works of a step are computed with together, and each comes out as if it were alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from draft_service.drafters import growth, model
from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.model import ModelSequence
from tandem import transfers
from tandem.compression import truncate_law
from tandem.distributions import full_row_distance
from tandem.rpc.errors import TandemError
from tandem.sampling import NotFiniteError
from tandem.v1 import draft_pb2, model_pb2, sampling_pb2
from target_service import session as target
from target_service.session import TargetSession
from target_service.spec import SessionSpec
from target_service.verification import Rule
from tests.support.steps import Session, session

SIZE = 300
SEEDS = range(24)
VERIFICATION = {
    Rule.GREEDY: sampling_pb2.VERIFICATION_RULE_GREEDY,
    Rule.RATIO: sampling_pb2.VERIFICATION_RULE_RATIO,
    Rule.BLOCK: sampling_pb2.VERIFICATION_RULE_BLOCK,
    Rule.COUPLED: sampling_pb2.VERIFICATION_RULE_COUPLED,
}


class _Sequence:
    """Stands for a sequence whose cache holds whatever it is asked for."""

    length = 0
    states: ClassVar[dict[int, Tensor]] = {}  # of no position

    def truncate(self, length: int) -> None:
        self.length = length

    def keep_path(self, tokens: Sequence[int]) -> None:
        """There is no tree."""


class _Engine:
    """Stands for an engine; the tests hand logits to the works themselves."""

    async def run(self, work: object) -> None:
        """The prompt, which asks for no logits."""


def verification(each: Session) -> target._Verification:
    return target._Verification(target_session(each), each.prompt, 0, target.Proposal(each.candidates, each.rows))


def generation(each: Session) -> target._Generation:
    return target._Generation(target_session(each), each.prompt, 0, 100, target.Proposal())


def target_session(each: Session) -> TargetSession:
    spec = SessionSpec(
        tokens=tuple(each.prompt),
        prompt_length=len(each.prompt),
        sampling=each.params,
        rule=each.rule,
        noise=each.noise,
        stop_token_ids=frozenset(),
        max_entries=each.max_entries,
        mass=each.mass,
    )
    return TargetSession(_Engine(), _Sequence(), spec, SIZE)  # type: ignore[arg-type]


def drafting(each: Session) -> model._Drafting:
    spec = SequenceSpec(
        tokens=tuple(each.prompt),
        prompt_length=len(each.prompt),
        sampling=each.params,
        verification=VERIFICATION[each.rule],
        noise=each.noise,
        stop_token_ids=frozenset(),
        max_entries=each.max_entries or 7 * each.rule.draws_residuals,
        mass=each.mass,
    )
    info = model_pb2.ModelInfo(vocabulary_size=SIZE, context_length=100)
    sequence = ModelSequence(_Engine(), _Sequence(), spec, info)  # type: ignore[arg-type]
    return model._Drafting(sequence, each.prompt, 0, 3, draft_pb2.DraftLimits(max_tokens=9))


def outcome(work) -> tuple:
    """All that a step may change of a work and of its owner, in numbers that can be compared."""
    owner = work._owner
    if isinstance(work, target._Verification):
        made: tuple = () if work.numbers is None else (work.numbers.corrections, work.numbers.target_tokens)
        full = owner._log_p
    elif isinstance(work, target._Generation):
        made, full = (work._position, work._left, work._feed), None
    else:
        block = work.block
        rows = [(row.token_ids.tolist(), row.log_probs.tolist(), round(row.tail_mass, 5)) for row in block.rows]
        made = (block.token_ids, block.log_probabilities, rows, work._feed, len(owner._rows))
        full = owner._rows[-1] if owner._rows else None
    return (*made, owner._history.generated, None if full is None else full.tolist())


WORKS: dict[str, Callable[[Session], object]] = {"verify": verification, "generate": generation, "draft": drafting}


def sessions(kind: str) -> list[Session]:
    found = [session(seed, SIZE) for seed in SEEDS]
    if kind != "verify":
        for each in found:
            each.logits = each.logits[:1]
    return found


def side_by_side(parts: list[Tensor]) -> list[Tensor]:
    """Copies, as a model gives them."""
    return list(torch.cat(parts).split([len(rows) for rows in parts]))


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("entries", [None, 5 * SIZE], ids=["at once", "in portions"])
async def test_works_come_out_of_a_step_as_if_each_were_alone(monkeypatch, kind: str, entries: int | None) -> None:
    if entries:
        monkeypatch.setattr(transfers, "_ENTRIES", entries)
    asked = sessions(kind)
    together, alone = ([WORKS[kind](each) for each in asked] for _ in range(2))
    steps = 1 if kind == "verify" else 3
    for _ in range(steps):
        logits = side_by_side([each.logits for each in asked])
        results = type(together[0]).receive_all(together, logits)
        expected = [type(work).receive_all([work], [each.logits])[0] for work, each in zip(alone, asked, strict=True)]
        assert not any(isinstance(result, Exception) for result in results)
        if kind == "generate":
            assert [token.token_id for token in results] == [token.token_id for token in expected]
            assert [token.log_probability for token in results] == [token.log_probability for token in expected]
    for one, two in zip(together, alone, strict=True):
        assert outcome(one) == outcome(two)


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
async def test_logits_that_are_not_finite_end_their_work_alone(kind: str, bad: float) -> None:
    asked = sessions(kind)
    expected = [WORKS[kind](each) for each in asked]
    type(expected[0]).receive_all(expected, [each.logits for each in asked])
    works = [WORKS[kind](each) for each in asked]
    before = outcome(works[5])
    logits = side_by_side([each.logits for each in asked])
    logits[5][0] = bad
    results = type(works[0]).receive_all(works, logits)
    assert isinstance(results[5], NotFiniteError)
    assert sum(isinstance(result, Exception) for result in results) == 1
    assert outcome(works[5]) == before
    for index, (work, unharmed) in enumerate(zip(works, expected, strict=True)):
        assert index == 5 or outcome(work) == outcome(unharmed)


@pytest.mark.parametrize("kind", WORKS)
async def test_a_step_that_fails_in_the_middle_changes_no_work(monkeypatch, kind: str) -> None:
    monkeypatch.setattr(transfers, "_ENTRIES", 8 * SIZE)
    module, name = {
        "verify": (target, "verify_many"), "generate": (target, "next_tokens"), "draft": (growth, "draw_many")
    }[kind]  # fmt: skip
    whole, calls = getattr(module, name), []

    def fails_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory for that many")
        return whole(*arguments)

    monkeypatch.setattr(module, name, fails_at_the_second)
    asked = sessions(kind)
    works = [WORKS[kind](each) for each in asked]
    before = [outcome(work) for work in works]
    with pytest.raises(torch.OutOfMemoryError):
        type(works[0]).receive_all(works, [each.logits for each in asked])
    assert len(calls) == 2 and [outcome(work) for work in works] == before


async def test_a_draft_that_asked_for_no_logits_is_left_alone() -> None:
    asked = sessions("draft")[:3]
    works = [drafting(each) for each in asked]
    before = outcome(works[1])
    logits = [each.logits for each in asked]
    logits[1] = logits[1][:0]
    assert model._Drafting.receive_all(works, logits) == [None] * 3
    assert outcome(works[1]) == before
    assert all(len(works[index].block.token_ids) == 1 for index in (0, 2))


async def test_rows_that_are_kept_do_not_keep_those_of_the_whole_step() -> None:
    asked = [session(seed, SIZE, rule=Rule.GREEDY) for seed in range(40)]
    asked = [each for each in asked if each.rows and any(row.tail_mass > 0 for row in each.rows)]
    works = [verification(each) for each in asked]
    target._Verification.receive_all(works, side_by_side([each.logits for each in asked]))
    assert len(works) > 5
    for work, each in zip(works, asked, strict=True):
        kept = work._owner._log_p
        assert kept is not None and kept.shape == (len(each.candidates), SIZE)
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


async def test_full_rows_are_resolved_together_beside_the_event_loop() -> None:
    each = next(
        found for seed in range(99) if len((found := session(seed, SIZE, rule=Rule.GREEDY)).candidates) > 3
        and found.rows and found.rows[0].tail_mass > 0
    )  # fmt: skip
    work = verification(each)
    target._Verification.receive_all([work], [each.logits])
    log_p = work._owner._log_p
    assert log_p is not None
    rows = [torch.log_softmax(torch.randn(SIZE), -1).to(torch.float16) for _ in range(3)]
    threads = []

    def full_rows() -> list[Tensor]:
        threads.append(threading.get_ident())
        return rows

    found = await work._owner.resolve([2, 0, 1], full_rows)
    assert threads != [threading.get_ident()] and len(threads) == 1
    for index, row, resolved in zip([2, 0, 1], rows, found, strict=True):
        assert resolved == pytest.approx(full_row_distance(log_p[index], row), abs=1e-12)
    with pytest.raises(ZeroDivisionError):
        await work._owner.resolve([0], lambda: [row / (1 // 0) for row in rows])
    assert await work._owner.resolve([], full_rows) == []


async def test_exact_distances_leave_nothing_to_resolve() -> None:
    each = next(found for seed in range(99) if (found := session(seed, SIZE, rule=Rule.RATIO)).candidates)
    work = verification(each)
    target._Verification.receive_all([work], [each.logits])
    with pytest.raises(TandemError, match="no tail"):
        await work._owner.resolve([0], lambda: [truncate_law(each.logits[0], 5).log_probs])
