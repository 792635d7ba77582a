"""AdaSD and its lossy family, end to end: what must hold whatever the models."""

from __future__ import annotations

import itertools

import pytest
import torch

from orchestrator import acceptance
from tandem.compression import law, truncate_law
from tandem.inference.runner import Block, ModelRunner
from tandem.noise import NoiseStream
from tandem.policies import STOP_RULES
from tandem.sampling import History, SamplingChain, SamplingParams
from target_service.verification import Rule, verify
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, trio

TOKENIZER = byte_tokenizer(64)
LOSSY = ("jsd", "adasd", "adasd-kde")


def _options(accept: str) -> dict[str, float]:
    return {"threshold": 0.6} if accept == "jsd" else {}


@pytest.mark.parametrize("strict", [False, True])
async def test_the_same_model_on_both_sides_accepts_everything_at_temperature_0(strict: bool) -> None:
    async with trio(tiny_llama(4), tiny_llama(4), TOKENIZER, bracket_entries=65536) as services:
        for stop in STOP_RULES:
            found = await services.complete([1, 2], policy=policy(stop, "adasd", strict=strict), max_tokens=60)
            report = found.finish.speculation
            # Goodput may find that a draft as large as its target does not pay.
            assert report.drafted_tokens == report.accepted_tokens > (0 if stop == "goodput" else 20)
            assert report.lossy_tokens == 0 and report.lossy_charge == 0


def test_the_same_model_under_truncation_is_rejected_no_more_than_its_tail_mass() -> None:
    """Expected rejection of the ratio test over q, exact: the law of the candidate is known."""
    runner = ModelRunner(tiny_llama(4))
    tokens = list(range(40))
    logits = runner.forward([Block(runner.open(), tokens, 32)])[0]
    # Thirty-two rows of a sequence, each under the chain as after its own tokens.
    chain = SamplingChain(SamplingParams(temperature=1.0), 64)
    log_p = torch.cat([chain.log_probs(row, History(tokens)) for row in logits.split(1)])
    for row in range(31):
        for entries in (4, 16, 48):
            q = truncate_law(log_p[row], entries)
            tail = 1 - float(log_p[row].double().exp()[q.token_ids].sum())
            rejected = sum(
                share * (1 - verify(Rule.RATIO, log_p[[row, row + 1]], [token], [q], NoiseStream(1), 9).acceptance[0])
                for token, share in zip(*(column.tolist() for column in law(q)), strict=True)
            )
            assert rejected <= tail + 0.001


@pytest.mark.parametrize(("accept", "temperature"), [*itertools.product(LOSSY, (0.0, 1.0))])
async def test_the_lossy_budget_is_never_overdrawn_and_0_is_lossless(accept: str, temperature: float) -> None:
    sampling = {"temperature": temperature, "seed": 3}
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.15), TOKENIZER) as services:

        async def ask(budget: float | None):
            options = _options(accept) | ({} if budget is None else {"lossy_budget": budget})
            return await services.complete(
                [1, 2], policy=policy("fixed", accept, **options), max_tokens=100, sampling=sampling
            )

        free = (await ask(None)).finish.speculation
        assert free.lossy and free.lossy_charge > 2
        for budget in (0.3, 1.0):
            report = (await ask(budget)).finish.speculation
            assert report.lossy_charge <= budget and report.lossy
        nothing = await ask(0.0)
        assert nothing.finish.speculation.lossy_charge == 0 and not nothing.finish.speculation.lossy
        assert nothing.finish.speculation.lossy_tokens == 0
        exact = await services.complete(
            [1, 2], policy=policy("fixed", "ratio"), max_tokens=100, sampling=sampling
        )
        assert nothing.token_ids == exact.token_ids


async def test_threshold_0_accepts_what_the_exact_rule_accepts() -> None:
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.1), TOKENIZER) as services:
        for temperature in (0.0, 1.0):
            sampling = {"temperature": temperature, "seed": 5}
            exact = await services.complete(
                [1], policy=policy("fixed", "ratio"), max_tokens=80, sampling=sampling
            )
            none = await services.complete(
                [1], policy=policy("fixed", "jsd", threshold=0.0), max_tokens=80, sampling=sampling
            )
            assert none.token_ids == exact.token_ids
            assert none.finish.speculation.accepted_at == exact.finish.speculation.accepted_at


@pytest.mark.parametrize("accept", LOSSY)
async def test_decisions_with_compression_equal_decisions_with_full_rows(accept: str) -> None:
    """At temperature 0 q is sent cut; a position that its bracket leaves open is resolved by the full row."""
    fetched, vocabulary = 0, 512  # eight entries of so many leave wide brackets
    for seed in range(2):
        texts = []
        for entries in (8, 65536):
            target = tiny_llama(seed, vocabulary=vocabulary)
            draft = tiny_llama(seed, vocabulary=vocabulary, noise=0.1)
            async with trio(target, draft, byte_tokenizer(vocabulary), bracket_entries=entries) as services:
                found = await services.complete(
                    [1, 2], policy=policy("fixed", accept, **_options(accept)), max_tokens=100
                )
            texts.append(list(found.token_ids))
            fetched += found.finish.speculation.full_rows if entries == 8 else 0
        if accept == "jsd":  # a threshold that learns from midpoints of brackets is another one
            assert texts[0] == texts[1]
    assert fetched > 0


@pytest.mark.parametrize(
    "accept", [name for name, rule in acceptance.RULES.items() if issubclass(rule, acceptance.LosslessRule)]
)
async def test_lossless_rules_say_so(accept: str) -> None:
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.1), TOKENIZER) as services:
        found = await services.complete([1, 2], policy=policy("adasd", accept), max_tokens=20)
    assert not found.finish.speculation.lossy and found.finish.speculation.lossy_charge == 0
    assert found.finish.speculation.accept_rule == accept


async def test_every_token_let_through_is_accounted_for() -> None:
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.12), TOKENIZER) as services:
        found = await services.complete([1, 2], policy=policy(), max_tokens=5)
        assert not found.tokens
        found = await services.complete(
            [1, 2], policy=policy("adasd", "adasd"), max_tokens=200, audit=True
        )
    report, sources = found.finish.speculation, [token.source for token in found.tokens]
    assert [token.token_id for token in found.tokens] == list(found.token_ids)
    assert sources.count(3) == report.lossy_tokens > 0
    assert sources.count(2) + sources.count(3) == report.accepted_tokens
    assert found.finish.usage.accepted_prediction_tokens == report.accepted_tokens
    assert "".join(token.text for token in found.tokens) == found.text
    for token in found.tokens:
        assert token.HasField("rejected_token_id") == (token.source == 4)
        assert token.HasField("distance") == (token.source in (2, 3))
        assert torch.isfinite(torch.tensor(token.target_log_probability)) and token.target_log_probability <= 0
