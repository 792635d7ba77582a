"""What the target says of its distributions reaches the drafter that asks for it, and no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pytest import MonkeyPatch

from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.reading import ReadingSequence
from draft_service.drafters.stand import StandDrafter, StandSequence
from orchestrator import stopping
from orchestrator.stopping import Limits
from tandem.distributions import CompressedRow, law
from tandem.inference.runner import Block, ModelRunner
from tests.support.drafters import make
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 5, 6, 5]


class Told(StandDrafter):
    """Notes what it is told: for each position, its text before and the law."""

    def __init__(self) -> None:
        super().__init__()
        self.laws: dict[tuple[int, ...], CompressedRow] = {}

    def _sequence(self, spec: SequenceSpec) -> StandSequence:
        sequence = super()._sequence(spec)
        assert isinstance(sequence, StandSequence)
        told = sequence.told

        def noted(tokens: Sequence[int], laws: Sequence[CompressedRow]) -> None:
            for position, row in enumerate(laws, len(tokens) - len(laws)):
                self.laws[tuple(tokens[:position])] = row
            told(tokens, laws)

        sequence.told = noted  # type: ignore[method-assign]
        return sequence


class Sometimes:
    """Lets the target go on alone now and then."""

    name = "goodput"

    def __init__(self) -> None:
        self._round = 0

    def limits(self) -> Limits:
        self._round += 1
        return Limits(4) if self._round % 3 else Limits(0, alone_tokens=5)

    def update(self, outcome: object) -> None:
        """Nothing."""

    def thresholds(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9, "seed": 3}])
async def test_the_drafter_is_told_what_the_target_said(sampling: dict[str, float], monkeypatch: MonkeyPatch) -> None:
    """Of every token but the first, which was made before the drafter had asked, and what the last round commits: p
    after the request's chain, its ten likeliest tokens."""
    monkeypatch.setattr(stopping, "Goodput", lambda **options: Sometimes())
    drafter = Told()
    async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
        found = await services.complete(
            PROMPT, policy=policy("goodput", "exact"), max_tokens=60, sampling=sampling
        )
    text = [*PROMPT, *found.token_ids]
    assert all(list(before) == text[: len(before)] for before in drafter.laws)
    positions = sorted(map(len, drafter.laws))
    assert positions[0] == len(PROMPT) + 1 and positions == list(range(positions[0], positions[-1] + 1))
    assert positions[-1] > len(text) - 15
    runner = ModelRunner(tiny_llama(2))
    for before, row in drafter.laws.items():
        logits = runner.forward([Block(runner.open(), list(before), 1)])[0][0].double()
        p = (logits / (sampling.get("temperature") or 1)).softmax(-1)
        if top_p := sampling.get("top_p"):
            order = p.argsort(descending=True)
            p[order[1:][p[order].cumsum(0)[:-1] >= top_p]] = 0
            p /= p.sum()
        ids, shares = law(row)
        assert len(ids) == min(10, int((p > 0).sum())) and len(set(ids.tolist())) == len(ids)
        torch.testing.assert_close(shares, p[ids], rtol=5e-3, atol=1e-4)
        assert float(p[ids].min()) >= float(p.topk(10).values[-1]) - 1e-9


async def test_a_drafter_that_does_not_ask_is_told_nothing(monkeypatch: MonkeyPatch) -> None:
    def told(*_: object) -> None:
        raise AssertionError("nobody has asked for it")

    monkeypatch.setattr(ReadingSequence, "told", told)
    async with trio(tiny_llama(2), make("suffix", tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        found = await services.complete(PROMPT, policy=policy("fixed"), max_tokens=40)
    assert found.finish.speculation.draft_failures == 0 and found.finish.speculation.accepted_tokens > 0
