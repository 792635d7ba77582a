"""The order of messages on the streams of draft and target: what refers to a prefix that is gone is never acted on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from draft_service.drafters.stand import StandDrafter
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import trio

GREEDY = 1
RATIO = 2
OPEN = {"handshake": make_handshake(), "prompt_token_ids": [1, 2, 3], "verification": GREEDY}
LIMITS = {"max_tokens": 3}


class Talk:
    """One stream: `await talk.ask(round=...)` writes a message and reads its answer."""

    def __init__(self, call: Any, message: type) -> None:
        self._call, self._message = call, message

    async def tell(self, **kind: object) -> None:
        await self._call.write(self._message(**kind))

    async def ask(self, **kind: object) -> Any:
        await self.tell(**kind)
        return await self._call.read()

    async def refusal(self, **kind: object) -> TandemError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(**kind)
        return TandemError.from_rpc_error(caught.value)


@pytest.fixture
async def talk() -> AsyncIterator[SimpleNamespace]:
    """`talk.draft()` and `talk.target()` start streams with the services of one trio."""
    async with trio(tiny_llama(1), tiny_llama(1), byte_tokenizer(64)) as services:
        assert services.draft is not None
        async with connect(services.draft.address) as to_draft, connect(services.target.address) as to_target:
            drafts, targets = draft_pb2_grpc.DraftServiceStub(to_draft), target_pb2_grpc.TargetServiceStub(to_target)
            yield SimpleNamespace(
                draft=lambda: Talk(drafts.Draft(), draft_pb2.DraftRequest),
                target=lambda: Talk(targets.Verify(), target_pb2.VerifyRequest),
                drafts=drafts,
                targets=targets,
                engines=(services.draft_engine, services.target_engine),
            )


def _at(position: int, kept: int = 0, follows: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"position": position, "kept": kept, "token_ids": follows}


async def test_both_sides_go_through_rounds_by_continuations(talk: SimpleNamespace) -> None:
    draft, target = talk.draft(), talk.target()
    assert (await draft.ask(open=OPEN)).opened.model.vocabulary_size == 64
    assert (await target.ask(open=OPEN)).opened.model.vocabulary_size == 64
    block = (await draft.ask(round={"round": 1, "continuation": _at(3), "limits": LIMITS})).block.block
    assert block.position == 3 and len(block.token_ids) == 3
    verified = (await target.ask(round={"round": 1, "continuation": _at(3), "block": block})).verified
    assert list(verified.target_token_ids[:3]) == list(block.token_ids)  # the same model on both sides
    follows = [verified.target_token_ids[1]]
    goes_on = _at(4, kept=1, follows=follows)
    second = (await draft.ask(round={"round": 2, "continuation": goes_on, "limits": LIMITS})).block.block
    assert second.position == 5
    verified = (await target.ask(round={"round": 2, "continuation": goes_on, "block": second})).verified
    assert list(verified.target_token_ids[:3]) == list(second.token_ids)


async def test_a_repeated_round_is_dropped_and_counted_not_answered_twice(talk: SimpleNamespace) -> None:
    draft, target = talk.draft(), talk.target()
    await draft.ask(open=OPEN)
    await target.ask(open=OPEN)
    first = {"round": 5, "continuation": _at(3), "limits": LIMITS}
    block = (await draft.ask(round=first)).block.block
    for stale in (5, 4, 0):
        await draft.tell(round=first | {"round": stale})
    answer = await draft.ask(round={"round": 6, "continuation": _at(6, kept=3), "limits": LIMITS})
    assert answer.block.round == 6 and answer.block.block.position == 6
    verify = {"round": 5, "continuation": _at(3), "block": block}
    await target.ask(round=verify)
    await target.tell(round=verify)
    await target.tell(generate={"round": 2, "continuation": _at(3), "max_tokens": 4})
    answer = await target.ask(round={"round": 7, "continuation": _at(6, kept=3), "block": {"position": 6}})
    assert answer.verified.round == 7
    assert (await talk.drafts.GetDraftLoad(draft_pb2.GetDraftLoadRequest())).stale_messages == 3
    assert (await talk.targets.GetTargetLoad(target_pb2.GetTargetLoadRequest())).stale_messages == 2


@pytest.mark.parametrize("side", ["draft", "target"])
@pytest.mark.parametrize(
    ("continuation", "reason", "field"),
    [
        (_at(4), "PREFIX_MISMATCH", None),
        (_at(2), "PREFIX_MISMATCH", None),
        (_at(4, kept=1), "INVALID_FIELD", "round.continuation.kept"),
        (_at(3, follows=(64,)), "INVALID_FIELD", "round.continuation.token_ids[0]"),
    ],
)
async def test_a_continuation_of_another_prefix_is_refused(
    talk: SimpleNamespace, side: str, continuation: dict[str, Any], reason: str, field: str | None
) -> None:
    stream = getattr(talk, side)()
    await stream.ask(open=OPEN)
    rest = {"limits": LIMITS} if side == "draft" else {"block": {"position": continuation["position"]}}
    error = await stream.refusal(round={"round": 1, "continuation": continuation, **rest})
    assert (error.reason, error.field) == (reason, field)
    if reason == "PREFIX_MISMATCH":
        expected = {"expected_position": "3", "received_position": str(continuation["position"])}
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION and error.metadata == expected


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("survival", "entropies", "acceptances", "field"),
    [
        ([-0.1], [0.0], [1.0], "min_survival[0]"),
        ([0.5, NAN], [0.0], [1.0], "min_survival[1]"),
        ([0.5] * 65, [0.0], [1.0], "min_survival"),
        ([0.5], [], [], "acceptance_curve"),
        ([0.5], [0.0, 1.0], [1.0], "acceptance_curve"),
        ([0.5], list(range(65)), [1.0] * 65, "acceptance_curve"),
        ([0.5], [1.0, 1.0], [1.0, 0.5], "acceptance_curve.entropies"),
        ([0.5], [-1.0, 1.0], [1.0, 0.5], "acceptance_curve.entropies"),
        ([0.5], [0.0, INFINITY], [1.0, 0.5], "acceptance_curve.entropies"),
        ([0.5], [0.0, NAN], [1.0, 0.5], "acceptance_curve.entropies"),
        ([0.5], [0.0, 1.0], [1.0, 1.5], "acceptance_curve.acceptances[1]"),
        ([0.5], [0.0, 1.0], [NAN, 0.5], "acceptance_curve.acceptances[0]"),
    ],
)
async def test_limits_that_mean_nothing_are_refused_by_field(
    talk: SimpleNamespace, survival: list[float], entropies: list[float], acceptances: list[float], field: str
) -> None:
    draft = talk.draft()
    await draft.ask(open=OPEN)
    curve = {"entropies": entropies, "acceptances": acceptances}
    limits = {**LIMITS, "min_survival": survival, "acceptance_curve": curve}
    error = await draft.refusal(round={"round": 1, "continuation": _at(3), "limits": limits})
    assert (error.reason, error.field) == ("INVALID_FIELD", f"round.limits.{field}")


async def test_a_block_ends_where_its_survival_falls_below_the_entry_of_its_length(talk: SimpleNamespace) -> None:
    """Every candidate is expected to be accepted by half, whatever its entropy: survival is .5, .25, .125."""
    draft = talk.draft()
    await draft.ask(open=OPEN)
    curve = {"entropies": [0.0], "acceptances": [0.5]}
    for number, (survival, length) in enumerate([([0.4], 2), ([0.1, 0.3], 2), ([0.6, 0.0], 1), ([0.0], 3), ([2.0], 1)]):
        limits = {**LIMITS, "min_survival": survival, "acceptance_curve": curve}
        answer = (await draft.ask(round={"round": number + 1, "continuation": _at(3), "limits": limits})).block
        assert len(answer.block.token_ids) == length, survival
        stopped = draft_pb2.DRAFT_STOP_MAX_TOKENS if length == 3 else draft_pb2.DRAFT_STOP_SURVIVAL
        assert answer.stop == stopped


LAW = {"token_ids": b"\5\0\0\0", "log_probabilities": b"\0\0"}


@pytest.mark.parametrize("side", ["draft", "target"])
async def test_distributions_of_the_target_are_for_a_draft_that_asks_for_them(talk: SimpleNamespace, side: str) -> None:
    for kind in ("round",) if side == "draft" else ("round", "generate"):
        stream = getattr(talk, side)()
        await stream.ask(open=OPEN)
        continuation = _at(3) | {"target_distributions": [LAW]}
        rest = {"limits": LIMITS} if side == "draft" else {"max_tokens": 1} if kind == "generate" else {}
        error = await stream.refusal(**{kind: {"round": 1, "continuation": continuation, **rest}})
        assert (error.reason, error.field) == ("INVALID_FIELD", f"{kind}.continuation.target_distributions")


@pytest.mark.parametrize(
    ("laws", "field"),
    [
        ([LAW] * 1025, ""),
        ([LAW] * 4, ""),
        ([LAW, {"token_ids": b"\1"}], "[1]"),
        ([LAW | {"log_probabilities": b"\0\x7e"}], "[0]"),
    ],
    ids=["too many", "more than the text has tokens", "no ids", "no number"],
)
async def test_distributions_of_the_target_that_cannot_be_are_refused_by_the_draft(
    laws: list[dict[str, bytes]], field: str
) -> None:
    async with trio(tiny_llama(1), StandDrafter(), byte_tokenizer(64)) as services:
        assert services.draft is not None
        async with connect(services.draft.address) as channel:
            stub = draft_pb2_grpc.DraftServiceStub(channel)
            stream = Talk(stub.Draft(), draft_pb2.DraftRequest)
            assert (await stream.ask(open=OPEN)).opened.target_entries == 10
            answer = await stream.ask(
                round={"round": 1, "continuation": _at(3) | {"target_distributions": [LAW] * 3}, "limits": LIMITS}
            )
            assert answer.block.round == 1
            continuation = _at(3) | {"target_distributions": laws}
            error = await stream.refusal(round={"round": 2, "continuation": continuation, "limits": LIMITS})
    assert (error.reason, error.field) == ("INVALID_FIELD", f"round.continuation.target_distributions{field}")


async def test_a_round_may_ask_for_other_distributions_than_the_sequence_was_opened_with(talk: SimpleNamespace) -> None:
    stream = talk.target()
    await stream.ask(open=OPEN | {"format": {"max_entries": 3, "mass": 1.0}})
    block = {"position": 3, "token_ids": [5]}
    found = []
    for number, wanted in enumerate([{}, {"format": {"max_entries": 5}}, {"format": {}}, {}]):
        asked = {"round": number, "continuation": _at(3), "block": block, **wanted}
        rows = (await stream.ask(round=asked)).verified.distributions
        found.append([len(row.token_ids) // 4 for row in rows])
    assert found == [[3, 3], [5, 5], [], [3, 3]]
    for number, (wanted, entries) in enumerate([({}, 3), ({"format": {"max_entries": 6}}, 6), ({"format": {}}, 0)]):
        asked = {"round": number + 9, "continuation": _at(3 + number), "max_tokens": 1, **wanted}
        row = (await stream.ask(generate=asked)).generated.distribution
        assert len(row.token_ids) // 4 == entries


@pytest.mark.parametrize("kind", ["round", "generate"])
@pytest.mark.parametrize(
    ("wanted", "field"), [({"max_entries": 65537}, "max_entries"), ({"max_entries": 1, "mass": 1.1}, "mass")]
)
async def test_a_format_that_means_nothing_is_refused_by_field(
    talk: SimpleNamespace, kind: str, wanted: dict[str, float], field: str
) -> None:
    stream = talk.target()
    await stream.ask(open=OPEN)
    rest = {"max_tokens": 1} if kind == "generate" else {"block": {"position": 3}}
    error = await stream.refusal(**{kind: {"round": 1, "continuation": _at(3), "format": wanted, **rest}})
    assert (error.reason, error.field) == ("INVALID_FIELD", f"{kind}.format.{field}")


@pytest.mark.parametrize("side", ["draft", "target"])
@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"handshake": {"protocol_version": 2}}, "PROTOCOL_MISMATCH", None),
        (
            {"handshake": {"protocol_version": 1, "expected": {"tokenizer_fingerprint": "b"}}},
            "TOKENIZER_MISMATCH",
            None,
        ),
        ({"prompt_token_ids": []}, "INVALID_FIELD", "open.prompt_token_ids"),
        ({"prompt_token_ids": [1, 64]}, "INVALID_FIELD", "open.prompt_token_ids[1]"),
        ({"sampling": {"temperature": -1}}, "INVALID_FIELD", "open.sampling.temperature"),
        ({"verification": 0}, "INVALID_FIELD", "open.verification"),
        ({"verification": 9}, "INVALID_FIELD", "open.verification"),
        ({"verification": RATIO}, "INVALID_FIELD", "open.verification"),
        ({"random_key": {"choice": 2**24}}, "INVALID_FIELD", "open.random_key"),
        ({"format": {"mass": 1.5}}, "INVALID_FIELD", "open.format.mass"),
    ],
)
async def test_a_bad_opening_is_refused(
    talk: SimpleNamespace, side: str, change: dict[str, Any], reason: str, field: str | None
) -> None:
    error = await getattr(talk, side)().refusal(open=OPEN | change)
    assert (error.reason, error.field) == (reason, field)
    assert [engine.load().sequences for engine in talk.engines] == [0, 0]


@pytest.mark.parametrize("side", ["draft", "target"])
async def test_messages_out_of_order_are_refused(talk: SimpleNamespace, side: str) -> None:
    error = await getattr(talk, side)().refusal(round={"round": 1})
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UNEXPECTED_MESSAGE")
    stream = getattr(talk, side)()
    await stream.ask(open=OPEN)
    assert (await stream.refusal(open=OPEN)).reason == "UNEXPECTED_MESSAGE"
    stream = getattr(talk, side)()
    await stream.ask(open=OPEN)
    gone = {"rows": {"round": 3, "indices": [0]}} if side == "draft" else {"resolve": {"round": 3}}
    assert (await stream.refusal(**gone)).reason == "UNEXPECTED_MESSAGE"
    assert (await getattr(talk, side)().refusal()).reason == "UNEXPECTED_MESSAGE"  # a message of no kind


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"position": 3, "token_ids": [64]}, "round.block.token_ids[0]"),
        ({"position": 3, "token_ids": [1] * 65}, "round.block.token_ids"),
        (
            {"position": 3, "token_ids": [1, 2], "distributions": [{"token_ids": b"\1\0\0\0"}]},
            "round.block.distributions[0]",
        ),
        ({"position": 3, "token_ids": [1, 2]}, "round.block.distributions"),
    ],
)
async def test_a_bad_block_is_refused_by_the_target(
    talk: SimpleNamespace, block: dict[str, Any], field: str
) -> None:
    stream = talk.target()
    await stream.ask(open=OPEN | {"verification": RATIO, "sampling": {"temperature": 1.0}})
    error = await stream.refusal(round={"round": 1, "continuation": _at(3), "block": block})
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


async def test_rounds_may_be_counted_from_0(talk: SimpleNamespace) -> None:
    draft = talk.draft()
    await draft.ask(open=OPEN)
    answer = await draft.ask(round={"round": 0, "continuation": _at(3), "limits": LIMITS})
    assert answer.block.round == 0


async def test_a_row_is_asked_for_once(talk: SimpleNamespace) -> None:
    """A row is as long as the vocabulary: a small message must not ask for thousands of them."""
    draft, target = talk.draft(), talk.target()
    await draft.ask(open=OPEN | {"format": {"max_entries": 8, "mass": 0.9}})
    block = (await draft.ask(round={"round": 1, "continuation": _at(3), "limits": LIMITS})).block.block
    rows = (await draft.ask(rows={"round": 1, "indices": [0, 2]})).rows.rows
    assert [row.index for row in rows] == [0, 2]
    assert (await draft.refusal(rows={"round": 1, "indices": [0, 0]})).field == "rows.indices"
    await target.ask(open=OPEN)
    await target.ask(round={"round": 1, "continuation": _at(3), "block": block})
    error = await target.refusal(resolve={"round": 1, "rows": [rows[0], rows[0]]})
    assert error.field == "resolve.rows"


async def test_a_block_for_another_place_is_refused_by_the_target(talk: SimpleNamespace) -> None:
    stream = talk.target()
    await stream.ask(open=OPEN)
    error = await stream.refusal(round={"round": 1, "continuation": _at(3), "block": {"position": 4}})
    assert error.reason == "PREFIX_MISMATCH"


async def test_a_stream_without_messages_ends_well(talk: SimpleNamespace) -> None:
    assert [answer async for answer in talk.drafts.Draft(iter(()))] == []
    assert [answer async for answer in talk.targets.Verify(iter(()))] == []
