"""Blocks that the draft makes while the target verifies: the text is the target's, whatever was foreseen and whenever
it came."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tandem.policies import STOP_RULES
from tandem.v1 import completion_pb2
from tests.services.test_draft_returns import Reader, is_alone, is_drafted
from tests.support.fleet import Fleet, fleet, until_idle
from tests.support.foreseeing import Foresees, Foresight, every, foreseeing, known, wrong
from tests.support.pair_law import check_pair_law
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [1, 2, 3]
LENGTH = 32
SAMPLES = 250
SAMPLED = {"exact": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}


def hits(report: completion_pb2.LookAheadReport) -> int:
    return report.hits_all_kept + report.hits_rejected


def misses(report: completion_pb2.LookAheadReport) -> int:
    return report.misses_all_kept + report.misses_rejected


async def text(services: Trio, accept: str) -> list[int]:
    """Of the target alone, longer than any that is asked for."""
    alone = await services.complete(PROMPT, max_tokens=LENGTH + 30, sampling=SAMPLED[accept])
    return [*PROMPT, *alone.token_ids]


async def ask(services: Trio, truth: list[int], stop: str, accept: str) -> completion_pb2.CompleteOnceResponse:
    """A completion by these rules, whose text is `truth`."""
    found = await services.complete(
        PROMPT, policy=policy(stop, accept), max_tokens=LENGTH, sampling=SAMPLED[accept], audit=True
    )
    assert [*PROMPT, *found.token_ids] == truth[: len(PROMPT) + LENGTH]
    return found


@pytest.mark.parametrize("accept", ["exact", "coupled"])
async def test_the_text_is_the_targets_where_outcomes_are_foreseen(accept: str) -> None:
    foresight = Foresight(known())
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER, **foreseeing(foresight)) as services:
        truth = await text(services, accept)
        foresight.foresees = known(truth)
        kinds: Counter[str] = Counter()
        for stop in STOP_RULES:
            report = (await ask(services, truth, stop, accept)).finish.speculation.look_ahead
            # To the rule that weighs time, a target that waits for the draft is one that is better left alone.
            assert hits(report) > 0 or stop == "goodput"
            assert report.taken_tokens <= report.pushed_tokens and report.pushed_bytes > 0
            kinds["all"] += report.hits_all_kept
            kinds["some"] += report.hits_rejected
        assert kinds["all"] > 0 < kinds["some"] and foresight.taken >= sum(kinds.values())


@pytest.mark.parametrize("sends", ["late", "twice", "torn", "never", "wrong", "short"])
async def test_the_text_is_the_targets_whatever_goes_wrong_ahead(sends: str) -> None:
    foresight = Foresight(known(), "at once" if sends in ("wrong", "short") else sends)
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER, **foreseeing(foresight)) as services:
        truth = await text(services, "coupled")
        foresight.foresees = wrong(known(truth)) if sends == "wrong" else known(truth)
        foresight.stops_after = 2 if sends == "short" else 64
        for stop in ("fixed", "adasd"):
            speculation = (await ask(services, truth, stop, "coupled")).finish.speculation
            report = speculation.look_ahead
            assert speculation.draft_failures == 0 and speculation.accepted_tokens > 0
            if sends == "short":
                assert hits(report) + report.misses_short > 0
                continue
            if sends == "never":
                assert hits(report) + misses(report) == 0
                continue
            # Where all is said twice, what was whole at first still is when its outcome comes true.
            assert misses(report) > 0 and (hits(report) == 0 or sends == "twice")
            assert sends != "wrong" or report.misses_other_token + report.misses_no_branch > 0
            assert sends != "late" or report.stale_messages > 0


async def test_nothing_is_drafted_ahead_where_nobody_wants_it() -> None:
    foresight = Foresight(known())
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER, **foreseeing(foresight)) as services:
        foresight.foresees = known(await text(services, "exact"))
        rules = policy("fixed", "exact")
        with_it = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH)
        sent = foresight.sent
        rules.look_ahead = 0
        without = await services.complete(PROMPT, policy=rules, max_tokens=LENGTH)
    assert with_it.token_ids == without.token_ids and foresight.sent == sent > 0
    assert with_it.finish.speculation.HasField("look_ahead")
    assert not without.finish.speculation.HasField("look_ahead")


async def test_the_account_says_which_rounds_were_foreseen() -> None:
    foresight = Foresight(known())
    async with trio(tiny_llama(3), tiny_llama(3, noise=0.05), TOKENIZER, **foreseeing(foresight)) as services:
        foresight.foresees = known(await text(services, "exact"))
        rounds: list[completion_pb2.RoundAccount] = []
        report = completion_pb2.LookAheadReport()
        request = completion_pb2.CompleteRequest(
            tokens=completion_pb2.TokenIds(ids=PROMPT), speculation=policy("fixed", "exact"), max_tokens=LENGTH,
            audit=True,
        )  # fmt: skip
        async for response in services.stub.Complete(request):
            if response.HasField("round"):
                rounds.append(response.round)
            if response.HasField("finish"):
                report = response.finish.speculation.look_ahead
    foreseen = [each for each in rounds if each.foreseen]
    assert len(foreseen) == hits(report) > 0
    assert not rounds[0].foreseen
    assert all(each.time.draft_compute_microseconds == 0 for each in foreseen)


@pytest.mark.parametrize("accept", ["jsd", "adasd"])
async def test_lossy_rules_take_full_rows_of_blocks_that_were_foreseen(accept: str) -> None:
    """Of a vocabulary of 4 all outcomes can be foreseen."""
    foresight = Foresight(every(4))
    target, draft = tiny_llama(11, vocabulary=4), tiny_llama(11, vocabulary=4, noise=0.3)
    threshold = {"threshold": 0.3} if accept == "jsd" else {}
    async with trio(target, draft, byte_tokenizer(4), **foreseeing(foresight)) as services:
        rules = policy("fixed", accept, max_tokens=3, **threshold)
        found = await services.complete([1, 2, 3, 1], policy=rules, max_tokens=LENGTH)
        rules.look_ahead = 0
        without = await services.complete([1, 2, 3, 1], policy=rules, max_tokens=LENGTH)
    # What was foreseen is what would have been drafted: even the lossy text is the same.
    assert found.token_ids == without.token_ids
    assert hits(found.finish.speculation.look_ahead) > 0


@pytest.mark.parametrize("accept", ["ratio", "block"])
async def test_a_seed_has_the_same_text_with_and_without_look_ahead(accept: str) -> None:
    """Also where only some outcomes are foreseen: a block that was is the one that would have been asked for."""
    foresight = Foresight(every(4))
    target, draft = tiny_llama(11, vocabulary=4), tiny_llama(11, vocabulary=4, noise=0.3)
    async with trio(target, draft, byte_tokenizer(4), look_ahead_branches=64, **foreseeing(foresight)) as services:
        for seed, stop in enumerate(("fixed", "adaedl", "confidence")):
            rules = policy(stop, accept, max_tokens=3)
            sampling = {"temperature": 1.0, "seed": seed}
            rules.look_ahead = 0
            without = await services.complete([1, 2], policy=rules, max_tokens=LENGTH, sampling=sampling)
            rules.ClearField("look_ahead")
            for foresees in (every(4), every(4, lambda token: token % 2 == 0)):
                foresight.foresees = foresees
                found = await services.complete([1, 2], policy=rules, max_tokens=LENGTH, sampling=sampling)
                assert found.token_ids == without.token_ids
                assert hits(found.finish.speculation.look_ahead) > 0


@pytest.mark.parametrize(
    ("stop", "accept", "foresees"),
    [
        ("fixed", "ratio", every(4)),
        # Which outcomes are there depends on the token that comes true.
        ("adaedl", "block", every(4, lambda token: token % 2 == 0)),
    ],
)
async def test_lossless_in_distribution_with_look_ahead(stop: str, accept: str, foresees: Foresees) -> None:
    """As `test_lossless_in_distribution_over_grpc`, with blocks of one: where the pair's first token corrects a
    candidate and was foreseen, its second one was drafted ahead. Half as many samples, at the same error rate."""
    rules = policy(stop, accept, max_tokens=1)
    reports = await check_pair_law(rules, samples=SAMPLES, max_tokens=5, **foreseeing(Foresight(foresees)))
    assert sum(hits(report.look_ahead) for report in reports) > SAMPLES / 4


@pytest.fixture
async def made() -> AsyncIterator[Fleet]:
    async with fleet() as running:
        yield running


@pytest.mark.parametrize("fails", ["is killed", "hangs"])
async def test_a_draft_that_looks_ahead_may_fail_at_any_time(made: Fleet, fails: str) -> None:
    foresight = Foresight(known())
    target, draft = await made.target(), await made.draft(foresight=foresight)
    orchestrator = await made.orchestrator([target], [draft], draft_patience_seconds=0.05, draft_timeout_seconds=60)
    await orchestrator.until(target, draft)
    truth = await orchestrator.complete(max_tokens=700)
    foresight.foresees = known([1, 2, *truth.token_ids])
    target.delay = 0.1  # time to look ahead
    reader = Reader(orchestrator, "exact", 700)
    for _ in range(2):
        taken = foresight.taken
        await reader.until(lambda tokens, taken=taken: is_drafted(tokens) and foresight.taken > taken)
        if fails == "hangs":
            draft.hangs = True
            await reader.until(is_alone)
            draft.hangs = False
        else:
            await draft.kill()
            await reader.until(is_alone)
            await draft.come_back()
    await reader.until(is_drafted)
    target.delay = 0.0
    await reader.leave_and_compare()
    await until_idle(target, draft)
