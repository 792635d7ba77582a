"""A completion that was begun elsewhere goes on as if it had never been interrupted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

TOKENIZER = byte_tokenizer(257, ends=(END,))
LENGTH = 48
#: Everything that looks at the tokens so far.
CHOOSY = {
    "temperature": 1.0, "seed": 5, "top_p": 0.95, "repetition_penalty": 1.3, "frequency_penalty": 0.6,
    "presence_penalty": 0.2,
}  # fmt: skip

Responses = list[completion_pb2.CompleteResponse]


@pytest.fixture
async def services() -> AsyncIterator[Trio]:
    target, draft = (tiny_llama(5, vocabulary=257, noise=noise) for noise in (0.0, 0.03))
    async with trio(target, draft, TOKENIZER) as running:
        yield running


async def stream(services: Trio, **fields: Any) -> Responses:
    request = make_request([73, 106], **{"max_tokens": LENGTH, **fields})
    return [response async for response in services.stub.Complete(request, timeout=60.0)]


def tokens(responses: Responses) -> list[int]:
    return [token for response in responses for token in response.token_ids]


def text(responses: Responses) -> str:
    return "".join(response.text for response in responses)


def told(finish: completion_pb2.Finish) -> tuple[Any, ...]:
    usage = finish.usage
    return finish.reason, finish.stop, usage.prompt_tokens, usage.completion_tokens


async def check_at(services: Trio, whole: Responses, cut: int, **fields: Any) -> None:
    """What comes behind the first `cut` messages is what a request that has their tokens gets."""
    before = whole[:cut]
    assert not any(response.HasField("finish") for response in before)
    after = await stream(services, **fields, resume=completion_pb2.TokenIds(ids=tokens(before)))
    assert tokens(before) + tokens(after) == tokens(whole), cut
    assert text(before) + text(after) == text(whole), cut
    expected, found = whole[-1].finish, after[-1].finish
    assert told(found) == told(expected), cut
    rest, again = whole[cut:], after
    for name in ("log_probabilities", "tokens"):
        one, other = ([each for response in part for each in getattr(response, name)] for part in (rest, again))
        assert [each.token_id for each in one] == [each.token_id for each in other]
        if name == "log_probabilities":
            assert [each.log_probability for each in other] == pytest.approx(
                [each.log_probability for each in one], abs=1e-4
            )
        else:
            assert [each.text for each in one] == [each.text for each in other]


@pytest.mark.parametrize(
    ("chosen", "sampling"),
    [
        pytest.param(OFF, {}, id="greedy alone"),
        pytest.param(policy("fixed", "exact", max_tokens=3), {"repetition_penalty": 1.2}, id="greedy"),
        pytest.param(policy("fixed", "coupled", max_tokens=3), CHOOSY, id="coupled"),
        pytest.param(OFF, CHOOSY, id="coupled alone"),
    ],
)
async def test_both_parts_together_are_the_whole(services: Trio, chosen: Any, sampling: dict[str, Any]) -> None:
    asked = {
        "speculation": chosen, "sampling": sampling, "min_tokens": 20, "audit": True, "log_probabilities": 2,
        "echo": True, "return_prompt_token_ids": True,
    }  # fmt: skip
    whole = await stream(services, **asked)
    assert len(tokens(whole)) >= 20 and whole[-1].finish.usage.completion_tokens == len(tokens(whole))
    assert whole[0].prompt_token_ids and whole[1].text and not whole[1].token_ids
    cuts = range(2, len(whole) - 1)  # from what is told of the prompt to the end alone
    for cut in {*cuts[:3], *cuts[3 :: max(1, len(cuts) // 8)], cuts[-1], len(whole) - 1}:
        await check_at(services, whole, cut, **asked)


async def test_a_stop_text_is_found_across_the_break(services: Trio) -> None:
    sampling = {"temperature": 1.0, "seed": 2}
    found = text(await stream(services, speculation=OFF, sampling=sampling, ignore_end_tokens=True))
    start = next(at for at in range(8, len(found) - 4) if found[at : at + 4] not in found[: at + 3])
    for include in (False, True):
        asked = {
            "speculation": OFF, "sampling": sampling, "ignore_end_tokens": True, "stop": [found[start : start + 4]],
            "include_stop": include,
        }  # fmt: skip
        whole = await stream(services, **asked)
        assert whole[-1].finish.stop == found[start : start + 4] and len(tokens(whole)) < LENGTH
        for cut in range(max(1, len(whole) - 8), len(whole)):
            await check_at(services, whole, cut, **asked)


async def test_a_grammar_goes_on_where_it_was(services: Trio) -> None:
    for sampling in ({}, {"temperature": 1.0, "seed": 4}):
        asked = {
            "speculation": policy("fixed", "coupled", max_tokens=3), "sampling": sampling,
            "grammar": {"regex": "[a-c]{3}-[0-9]{6,30}x"},
        }  # fmt: skip
        whole = await stream(services, **asked)
        for cut in range(1, len(whole)):
            await check_at(services, whole, cut, **asked)


async def test_one_that_is_over_already_is_told_its_end_at_once(services: Trio) -> None:
    whole = await stream(services, speculation=OFF, max_tokens=10, ignore_end_tokens=True)
    ids = tokens(whole)
    ends = {
        "length": ({"max_tokens": 10}, 10, completion_pb2.FINISH_REASON_LENGTH),
        "stop token": ({"stop_token_ids": [ids[-1]]}, ids.index(ids[-1]) + 1, completion_pb2.FINISH_REASON_STOP),
    }
    steps = services.target_engine.load().prefilled_tokens
    for name, (fields, counted, reason) in ends.items():
        asked = {"speculation": OFF, "ignore_end_tokens": True, "resume": {"ids": ids}, **fields}
        (only,) = await stream(services, **asked)
        assert (only.finish.reason, only.finish.usage.completion_tokens, only.token_ids) == (reason, counted, []), name
    assert services.target_engine.load().prefilled_tokens == steps  # nothing was run for them


async def test_the_end_of_a_stop_text_that_was_there_already_is_told(services: Trio) -> None:
    sampling = {"temperature": 1.0, "seed": 2}
    asked = {"speculation": OFF, "sampling": sampling, "ignore_end_tokens": True}
    found = text(await stream(services, **asked))
    asked["stop"] = [next(letter for letter in found[4:] if letter.isprintable())]
    whole = await stream(services, **asked)
    (only,) = await stream(services, **asked, resume={"ids": [*tokens(whole), 1, 2, 3]})  # none came behind the end
    assert told(only.finish) == told(whole[-1].finish) and only.text == whole[-1].text


async def test_what_was_lost_of_a_budget_counts_as_spent(services: Trio) -> None:
    """The whole keeps to it; the exact rule decides the rest."""
    lossy = policy("fixed", "jsd", threshold=1.0, lossy_budget=1e9, max_tokens=4)
    asked = {"speculation": lossy, "ignore_end_tokens": True}
    whole = await stream(services, **asked)
    assert whole[-1].finish.speculation.lossy_tokens > 0
    rest = await stream(services, **asked, resume={"ids": tokens(whole)[:20]})
    report = rest[-1].finish.speculation
    assert (report.lossy, report.lossy_tokens, report.lossy_charge) == (False, 0, 0.0) and report.drafted_tokens > 0


@pytest.mark.parametrize(
    ("fields", "field", "told_as"),
    [
        ({"n": 2, "sampling": {"temperature": 1.0, "seed": 1}}, "n", "must be 1 with resume"),
        ({"sampling": {"temperature": 0.5}}, "sampling.seed", "is needed with resume"),
        ({"resume": {"ids": [1, 2, 257]}}, "resume.ids[2]", "257"),
        ({"max_tokens": 2}, "resume.ids", "has 3 tokens; max_tokens and the context allow 2"),
        ({"grammar": {"regex": "[a-c]{3,9}"}, "resume": {"ids": [98, 99, 7]}}, "resume.ids", "token 7 at 2"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_refused_by_name(
    services: Trio, fields: dict[str, Any], field: str, told_as: str
) -> None:
    request = make_request([1], **{"resume": {"ids": [98, 99, 98]}, **fields})
    error = await services.refusal(request)
    assert (error.reason, error.field) == ("INVALID_FIELD", field) and told_as in error.message
