"""Log-probabilities of the model itself: those of a plain forward pass over the final text, under every rule."""

from __future__ import annotations

import pytest
import torch

from tandem.policies import ACCEPT_RULES
from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Trio, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [7, 8, 9]
CHAINS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "seed": 3},
    "cut": {"temperature": 1.3, "top_p": 0.8, "seed": 4, "frequency_penalty": 0.5, "logit_bias": {5: 2.0}},
}


def expected(text: list[int]) -> torch.Tensor:
    """log p [n, V] of what follows the prompt and each token of the text."""
    with torch.no_grad():
        logits = tiny_llama(5).model(torch.tensor([PROMPT + text])).logits[0, len(PROMPT) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)


def check(found: completion_pb2.CompleteOnceResponse | completion_pb2.Choice, top: int) -> None:
    text = list(found.token_ids)
    log_p = expected(text)
    assert [entry.token_id for entry in found.log_probabilities] == text
    for entry, row in zip(found.log_probabilities, log_p, strict=True):
        assert entry.log_probability == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert entry.token == (bytes([entry.token_id - 1]) if entry.token_id else b"")
        values, likeliest = row.topk(top) if top else (row[:0], row[:0])
        assert [other.token_id for other in entry.top] == likeliest.tolist()
        assert [other.log_probability for other in entry.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.fixture
async def services():
    async with trio(tiny_llama(5), tiny_llama(5, noise=0.1), TOKENIZER) as running:
        yield running


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("rule", [None, *ACCEPT_RULES])
async def test_they_equal_a_plain_forward_pass_under_every_rule(services: Trio, rule: str | None, chain: str) -> None:
    options = {"threshold": 0.6} if rule == "jsd" else {}
    each = OFF if rule is None else policy("fixed", rule, **options)
    found = await services.complete(
        PROMPT, policy=each, max_tokens=40, sampling=CHAINS[chain], log_probabilities=3, audit=True
    )
    sources = {token.source for token in found.tokens}
    assert rule is None or completion_pb2.TOKEN_SOURCE_DRAFT_MATCHED in sources
    assert rule is None or completion_pb2.TOKEN_SOURCE_CORRECTION in sources
    check(found, 3)


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_as_many_alternatives_as_asked_for(services: Trio, top: int) -> None:
    check(await services.complete(PROMPT, policy=policy("adasd"), max_tokens=20, log_probabilities=top), top)


async def test_none_unless_asked_for(services: Trio) -> None:
    found = await services.complete(PROMPT, policy=policy("adasd"), max_tokens=20)
    assert not found.log_probabilities


async def test_they_equal_it_after_the_draft_was_lost_and_of_every_choice(services: Trio) -> None:
    assert services.draft is not None
    found = await services.complete(
        PROMPT, policy=policy("fixed"), max_tokens=30, n=3, sampling={"temperature": 1.0}, log_probabilities=2
    )
    for choice in (found, *found.more_choices):
        check(choice, 2)
    await services.draft.drain()
    check(await services.complete(PROMPT, policy=policy("fixed"), max_tokens=20, log_probabilities=2), 2)


async def test_the_account_has_those_of_the_sampling_chain_as_before(services: Trio) -> None:
    chain = {"temperature": 0.5, "seed": 1}
    found = await services.complete(
        PROMPT, policy=policy("fixed", "ratio"), max_tokens=30, sampling=chain, log_probabilities=0, audit=True
    )
    cooled = torch.log_softmax(expected(list(found.token_ids)) / 0.5, dim=-1)
    for token, row in zip(found.tokens, cooled, strict=True):
        assert token.target_log_probability == pytest.approx(float(row[token.token_id]), abs=1e-4)
