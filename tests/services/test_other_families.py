"""A draft of another family: texts and laws are the target's, and what both vocabularies have is drafted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from draft_service.server import DraftServicer
from tandem.grammars import Grammars
from tandem.inference.loaded import LoadedModel
from tandem.models import UnsupportedModelError
from tandem.policies import STOP_RULES
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2
from tandem.v1.grammar_pb2 import Grammar
from tandem.vocabularies import intersect
from tests.support.families import SPECIAL, byte_level, drafter_for, relabelled, space_marked
from tests.support.pair_law import VOCABULARY, check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import make_request, policy, trio

#: The target writes words that the draft has in part, and not all of its bytes; the draft others.
LETTERS = [*b" \nabcdeghiklnorstuw.,", 0xC3, 0xA9]
WORDS = [b" the", b"the", b"walk", b"ing", b" is", b"  "]
TARGET = byte_level(WORDS, alphabet=LETTERS, seed=1)
ENDING = byte_level(WORDS, alphabet=LETTERS, seed=1, ends=[SPECIAL])
OWN = space_marked([" the", " walk", "walk", "walking", "is", "st"], seed=2, begins=True)
SIZE, OWN_SIZE = TARGET.vocabulary_size, OWN.vocabulary_size
SHARED = intersect(TARGET, OWN, target_size=SIZE, draft_size=OWN_SIZE)
#: Of the target alone.
UNSHARED = [token for token in range(SIZE) if token not in SHARED.target_ids]
PROMPT = TARGET.encode("the walk is the")
LENGTH = 30
SAMPLES = 200
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.5}
#: Towards tokens that the draft has not, and away from some that it has.
BIAS: dict[str, Any] = {
    "logit_bias": {**dict.fromkeys(UNSHARED, 2.0), SHARED.target_ids[3]: -math.inf, SHARED.target_ids[5]: -math.inf}
}


def models(noise: float = 0.05) -> tuple[LoadedModel, LoadedModel]:
    """The draft is the target, a little spoilt, as far as both have the same tokens."""
    labels = dict(zip(SHARED.target_ids, SHARED.draft_ids, strict=True))
    draft = relabelled(tiny_llama(3, vocabulary=SIZE, noise=noise), labels, OWN_SIZE)
    return tiny_llama(3, vocabulary=SIZE), draft


@asynccontextmanager
async def pair(noise: float = 0.05, tokenizer: Tokenizer = TARGET, **services: Any) -> Any:
    target, draft = models(noise)

    def serve(drafter: Any, grammars: Any, told: Any) -> DraftServicer:
        return DraftServicer(drafter, Grammars(tokenizer), told)

    async with trio(target, drafter_for(tokenizer, OWN, draft), tokenizer, serve_draft=serve, **services) as running:
        yield running


async def check_same(services: Any, policies: Sequence[Any], sampling: dict[str, Any]) -> tuple[set[int], int]:
    """By all of them the text is that of the target alone. Returns its tokens, and how many candidates were kept."""
    alone = await services.complete(PROMPT, max_tokens=LENGTH, sampling=sampling)
    accepted = 0
    for rules in policies:
        found = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH, sampling=sampling)
        assert found.token_ids == alone.token_ids
        report = found.finish.speculation
        assert not report.lossy and report.draft_failures == 0
        accepted += report.accepted_tokens
    return set(alone.token_ids), accepted


def test_the_families_share_some_tokens() -> None:
    assert 10 < len(SHARED) < min(SIZE, OWN_SIZE) and len(UNSHARED) >= 3


@pytest.mark.parametrize("sampling", [{}, PENALTIES, BIAS], ids=["plain", "penalties", "bias"])
async def test_greedy_texts_are_the_targets(sampling: dict[str, Any]) -> None:
    async with pair() as services:
        stops = ("fixed", "adasd") if sampling else STOP_RULES
        said, accepted = await check_same(services, [policy(stop, "exact") for stop in stops], sampling)
    assert accepted > 0 and (sampling is not BIAS or said & set(UNSHARED))


async def test_coupled_texts_are_the_targets() -> None:
    cuts = ({}, {"top_k": 5}, {"min_p": 0.05}, {"top_p": 0.9}, PENALTIES, BIAS)
    said: set[int] = set()
    async with pair() as services:
        for seed, cut in enumerate(cuts):
            sampling = {"temperature": 1.0, "seed": seed, **cut}
            tokens, accepted = await check_same(services, [policy("fixed", "coupled")], sampling)
            said |= tokens
            assert accepted > 0, cut
    assert said & set(UNSHARED) and said & set(SHARED.target_ids)


@pytest.mark.parametrize("accept", ["exact", "coupled", "ratio", "block"])
async def test_a_draft_whose_tokens_have_other_ids_drafts_what_it_drafts_with_the_targets(accept: str) -> None:
    """Single bytes, so that both read a text alike: the same text, candidate for candidate, and as many accepted."""
    target, own = byte_level(seed=1), byte_level(seed=2)
    size = target.vocabulary_size
    labels = {number: own.pieces()[piece] for piece, number in target.pieces().items()}
    assert sum(one != other for one, other in labels.items()) > size / 2
    draft = tiny_llama(3, vocabulary=size, noise=0.1)
    sampling = {"temperature": 0.0 if accept == "exact" else 1.0, "seed": 5}
    silent = {"logit_bias": {target.pieces()[SPECIAL]: -math.inf}}  # the draft reads no special tokens
    found = []
    for drafter in (draft, drafter_for(target, own, relabelled(draft, labels, size))):
        async with trio(tiny_llama(3, vocabulary=size), drafter, target) as services:
            found.append(
                await services.complete(
                    target.encode("abc"), policy=policy("fixed", accept), max_tokens=60, sampling={**sampling, **silent}
                )
            )
    one, other = found
    assert one.token_ids == other.token_ids
    reports = [(each.finish.speculation.drafted_tokens, each.finish.speculation.accepted_tokens) for each in found]
    drafted, accepted = reports[0]
    assert reports[0] == reports[1] and 0 < accepted < drafted


@pytest.mark.parametrize(
    ("stop", "accept", "sampling"),
    [
        ("fixed", "ratio", {"temperature": 1.0}),
        ("adaedl", "block", {"temperature": 1.0, "top_k": 3}),
        ("fixed", "ratio", {"temperature": 1.0, "min_p": 0.05, "logit_bias": {0: 2.0, 2: 2.0, 1: -0.5}}),
        ("fixed", "block", {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5}),
    ],
    ids=["plain", "top-k", "min-p and bias", "penalties"],
)
async def test_sampled_texts_have_the_targets_law(stop: str, accept: str, sampling: dict[str, Any]) -> None:
    """The target's tokens are <end> and three bytes; the draft has two of these bytes, in another order, a word of them
    and others. A wrong law passes with a chance that `check_pair_law` names."""
    own = byte_level([b"\x00\x01"], alphabet=[1, 0, 9, 8], seed=4)
    draft = drafter_for(byte_tokenizer(VOCABULARY), own, tiny_llama(5, vocabulary=own.vocabulary_size))
    reports = await check_pair_law(policy(stop, accept), samples=SAMPLES, sampling=sampling, drafter=lambda _: draft)
    kept = Counter(report.accepted_tokens > 0 for report in reports)
    assert sum(report.drafted_tokens for report in reports) >= SAMPLES / 2 and kept[False] and kept[True]
    assert draft.info.intersection.shared_tokens == 2


async def test_lossy_rules_take_its_rows() -> None:
    """Bracketed from few entries, and decided by full rows where that is not enough: one text."""
    texts: dict[int, list[list[int]]] = {8: [], 65536: []}
    reports = []
    for entries, found_with in texts.items():
        async with pair(0.4, bracket_entries=entries) as services:
            for threshold in (0.5, 0.54, 0.58, 0.62, 0.66, 0.7, 0.74, 0.78, 0.82, 0.86, 0.9):
                rules = policy("fixed", "jsd", threshold=threshold)
                found = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH)
                found_with.append(list(found.token_ids))
                reports.append((entries, found.finish.speculation))
    assert texts[8] == texts[65536]
    assert all(report.draft_failures == 0 < report.accepted_tokens for _, report in reports)
    assert sum(report.lossy_tokens for _, report in reports) > 0
    assert sum(report.full_rows for entries, report in reports if entries == 8) > 0


@pytest.mark.parametrize("accept", ["exact", "ratio"])
async def test_a_grammar_of_the_targets_tokens_is_followed(accept: str) -> None:
    drafted = 0
    async with pair(tokenizer=ENDING) as services:
        for seed in range(4):
            found = await services.complete(
                PROMPT,
                policy=policy("fixed", accept),
                max_tokens=60,
                grammar=Grammar(regex="( the| is){4}( walk| be)ing"),
                sampling={"temperature": 0.0 if accept == "exact" else 1.0, "seed": seed},
            )
            assert found.finish.reason == completion_pb2.FINISH_REASON_STOP, found.text
            assert found.text.endswith("ing") and found.finish.speculation.draft_failures == 0
            drafted += found.finish.speculation.drafted_tokens
    assert drafted > 0


async def test_a_text_outgrows_the_drafts_context_and_the_target_goes_on() -> None:
    """Whose tokens are not the target's: what is counted at the draft are its own."""
    target = tiny_llama(3, vocabulary=SIZE)
    own = byte_level([b"the walk"], seed=7)  # finer: its context is full before the target has so many tokens
    draft = tiny_llama(4, vocabulary=own.vocabulary_size, context=48)
    async with trio(target, drafter_for(TARGET, own, draft), TARGET) as services:
        alone = await services.complete(PROMPT, max_tokens=80)
        found = await services.complete(PROMPT, policy=policy("fixed", "exact"), max_tokens=80)
    assert found.token_ids == alone.token_ids and found.finish.speculation.draft_failures == 0


async def test_a_prompt_of_special_tokens_alone_leaves_the_draft_nothing_to_read() -> None:
    target, _ = models()
    own = byte_level(seed=7)
    drafter = drafter_for(TARGET, own, tiny_llama(4, vocabulary=own.vocabulary_size))
    end = TARGET.pieces()[SPECIAL]
    forced = {"logit_bias": {end: 100.0}}
    async with trio(target, drafter, TARGET) as services:
        found = await services.complete([end], policy=policy("fixed", "exact"), max_tokens=5, sampling=forced)
    assert list(found.token_ids) == [end] * 5 and found.finish.speculation.drafted_tokens == 0
    assert found.finish.speculation.draft_failures == 0


async def test_the_draft_says_by_which_scheme_it_speaks_the_targets_ids() -> None:
    async with pair() as services:
        assert services.draft is not None
        models_told = await services.stub.GetModels(completion_pb2.GetModelsRequest())
        info = models_told.draft
        assert info.tokenizer_fingerprint == TARGET.fingerprint == models_told.target.tokenizer_fingerprint
        assert info.vocabulary_size == SIZE and not models_told.target.HasField("intersection")
        assert info.intersection.own_tokenizer_fingerprint == OWN.fingerprint
        assert info.intersection.own_vocabulary_size == OWN_SIZE
        assert info.intersection.shared_tokens == len(SHARED)
        assert info.intersection.fingerprint == SHARED.fingerprint


def test_a_draft_that_shares_nothing_is_refused_with_both_names() -> None:
    own = byte_level(alphabet=[1, 2])
    with pytest.raises(UnsupportedModelError, match="other-family cannot draft for tiny: .*no token"):
        drafter_for(byte_level(alphabet=[3]), own, tiny_llama(vocabulary=own.vocabulary_size))


async def test_a_draft_that_translates_to_another_target_is_refused_with_both_sides() -> None:
    other = byte_level([b"ab"], seed=9)
    drafter = drafter_for(other, OWN, tiny_llama(4, vocabulary=OWN_SIZE))
    async with trio(tiny_llama(3, vocabulary=SIZE), drafter, TARGET) as services:
        error = await services.refusal(make_request([1, 2], speculation=policy("fixed", "exact")))
    assert error.reason == "TOKENIZER_MISMATCH"
    for fingerprint in (other.fingerprint, OWN.fingerprint, TARGET.fingerprint):
        assert fingerprint[:12] in error.message
    assert "tiny" in error.message and "other-family" in error.message and "--for-target" in error.message
