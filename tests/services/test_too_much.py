"""More than anybody needs: refused before it is read, and never gathered for who does not read."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from orchestrator.answers import check_verified
from tandem.inference.engine import Engine
from tandem.inference.runner import ModelRunner
from tandem.noise import NoiseStream
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.sampling import SamplingParams
from tandem.v1 import block_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from target_service import session as sessions
from target_service.session import TargetSession
from target_service.spec import SessionSpec
from target_service.verification import Rule
from tests.fuzz.talks import GREEDY
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import Trio, trio

MANY = 2_000_000
FIRST = {"round": {"continuation": {"position": 3}, "block": {"position": 3}}}
OPEN: dict[str, Any] = {"handshake": make_handshake(), "prompt_token_ids": [1, 2, 3], "verification": GREEDY}
ROW = {"token_ids": b"\1\0\0\0", "log_probabilities": b"\0\0"}


@pytest.fixture
async def services() -> AsyncIterator[Trio]:
    async with trio(tiny_llama(1, context=64), tiny_llama(1, context=64), byte_tokenizer(64)) as running:
        yield running


async def refusal(services: Trio, side: str, *messages: dict[str, Any]) -> TandemError:
    """Of the last message; those before are answered."""
    server = services.draft if side == "draft" else services.target
    assert server is not None
    async with connect(server.address) as channel:
        if side == "draft":
            call, kind = draft_pb2_grpc.DraftServiceStub(channel).Draft(), draft_pb2.DraftRequest
        else:
            call, kind = target_pb2_grpc.TargetServiceStub(channel).Verify(), target_pb2.VerifyRequest
        async with asyncio.timeout(60):
            for message in messages[:-1]:
                await call.write(kind(**message))
                await call.read()
            try:
                await call.write(kind(**messages[-1]))
                await call.read()
            except grpc.aio.AioRpcError as error:
                return TandemError.from_rpc_error(error)
    raise AssertionError("it was not refused")


TARGET: dict[str, tuple[list[dict[str, Any]], str]] = {
    "stop tokens": ([{"open": OPEN | {"stop_token_ids": [0] * MANY}}], "open.stop_token_ids"),
    "end tokens": ([{"open": OPEN | {"grammar_end_token_ids": [0] * MANY}}], "open.grammar_end_token_ids"),
    "entries": ([{"open": OPEN | {"format": {"max_entries": 2**32 - 1}}}], "open.format.max_entries"),
    "prompt": ([{"open": OPEN | {"prompt_token_ids": [0] * MANY}}], "open.prompt_token_ids"),
    "distributions": (
        [{"open": OPEN},
         {"round": {"continuation": {"position": 3}, "block": {"position": 3, "distributions": [ROW] * MANY}}}],
        "round.block.distributions",
    ),
    "rows": (
        [{"open": OPEN}, FIRST, {"resolve": {"rows": [{}] * MANY}}], "resolve.rows",
    ),
    "text": (
        [{"open": OPEN},
         {"round": {"continuation": {"position": 3, "token_ids": [1] * 62}, "block": {"position": 65}}}],
        "round.continuation.token_ids",
    ),
}  # fmt: skip
CURVE = {"entropies": [0.0] * MANY, "acceptances": [1.0]}
DRAFT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "stop tokens": ([{"open": OPEN | {"stop_token_ids": [0] * MANY}}], "open.stop_token_ids"),
    "entries": ([{"open": OPEN | {"format": {"max_entries": 65537}}}], "open.format.max_entries"),
    "prompt": ([{"open": OPEN | {"prompt_token_ids": [0] * MANY}}], "open.prompt_token_ids"),
    "text": (
        [{"open": OPEN}, {"round": {"continuation": {"position": 3, "token_ids": [1] * MANY}}}],
        "round.continuation.token_ids",
    ),
    "indices": (
        [{"open": OPEN}, {"round": {"continuation": {"position": 3}}}, {"rows": {"indices": [0] * MANY}}],
        "rows.indices",
    ),
    "knots": (
        [{"open": OPEN},
         {"round": {"continuation": {"position": 3}, "limits": {"min_survival": [1], "acceptance_curve": CURVE}}}],
        "round.limits.acceptance_curve",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("side", "name"), [*(("target", name) for name in TARGET), *(("draft", name) for name in DRAFT)]
)
async def test_what_is_far_too_long_is_refused_by_its_field(services: Trio, side: str, name: str) -> None:
    messages, field = (TARGET if side == "target" else DRAFT)[name]
    error = await refusal(services, side, *messages)
    assert error.field == field and error.reason in ("INVALID_FIELD", "PROMPT_TOO_LONG")
    for engine in (services.target_engine, services.draft_engine):
        assert engine is not None
        async with asyncio.timeout(20):
            while engine.load().sequences:
                await asyncio.sleep(0.01)


async def test_a_text_may_fill_the_context_and_no_more(services: Trio) -> None:
    full = {"position": 3, "token_ids": [1] * 60}
    block = {"position": 63}
    error = await refusal(
        services, "target",
        {"open": OPEN},
        {"round": {"round": 1, "continuation": full, "block": block}},
        {"round": {"round": 2, "continuation": {"position": 63, "token_ids": [1, 1]}, "block": {"position": 65}}},
    )  # fmt: skip
    assert error.field == "round.continuation.token_ids" and "64" in error.message


@pytest.mark.parametrize(("waiting", "stops"), [(4 << 20, ()), (1, ()), (5000, (7, 8)), (1, (7, 8))])
async def test_a_text_is_the_same_in_pieces_and_is_not_made_far_ahead_of_its_reader(
    monkeypatch: pytest.MonkeyPatch, waiting: int, stops: tuple[int, ...]
) -> None:
    runner = ModelRunner(tiny_llama(1, context=256))
    engine = Engine(runner)
    engine.start()

    async def text(ahead: int) -> list[int]:
        monkeypatch.setattr(sessions, "_MOST_WAITING_BYTES", ahead)
        spec = SessionSpec(
            tokens=(1, 2, 3), prompt_length=3, sampling=SamplingParams(temperature=1.0, presence_penalty=0.5),
            rule=Rule.COUPLED, noise=NoiseStream(5), stop_token_ids=frozenset(stops), max_entries=0, mass=1.0,
        )  # fmt: skip
        sequence = await engine.open()
        session = TargetSession(engine, sequence, spec, 64)
        found = []
        async with aclosing(session.generate([1, 2, 3], 0, 40)) as tokens:
            async for token, _ in tokens:
                found.append(token.token_id)
                if len(found) == 1:
                    await asyncio.sleep(0.2)  # a reader that is slow
                    most = 3 + 1 + max(1, ahead // sessions._TOKEN_BYTES)
                    assert sequence.length <= most
        await session.close()
        return found

    try:
        assert await text(waiting) == await text(1 << 40)
    finally:
        await engine.close()


def test_a_continuation_is_refused_before_it_is_copied() -> None:
    from tandem.progress import Progress

    progress = Progress([1, 2], 64, 8)
    with pytest.raises(TandemError):
        progress.advance(0, block_pb2.Continuation(position=2, token_ids=[1] * 7), path="round.continuation")
    assert progress.tokens == [1, 2] and progress.round == -1
    assert progress.advance(0, block_pb2.Continuation(position=2, token_ids=[1] * 6), path="round.continuation") == 2


@pytest.mark.parametrize(
    ("logs", "tail", "refused"),
    [
        ((0.0,), 1.0, True), ((0.0, -700.0), 1 - 2**-24, False), ((-700.0, -700.0), 0.9, False),
        ((0.0, -9.0), 1e-40, False),
    ],
)  # fmt: skip
async def test_a_distribution_at_the_edge_of_numbers_is_measured_or_refused(
    services: Trio, logs: tuple[float, ...], tail: float, refused: bool
) -> None:
    """Nothing is divided by what is listed, where that is next to nothing."""
    row = {
        "token_ids": struct.pack(f"<{len(logs)}I", *range(1, len(logs) + 1)),
        "log_probabilities": struct.pack(f"<{len(logs)}e", *logs),
        "tail_mass": tail,
    }
    block = {"position": 3, "token_ids": [1], "distributions": [row]}
    asked = {"round": {"round": 1, "continuation": {"position": 3}, "block": block}}
    if refused:
        assert (await refusal(services, "target", {"open": OPEN}, asked)).field == "round.block.distributions[0]"
        return
    async with connect(services.target.address) as channel:
        call = target_pb2_grpc.TargetServiceStub(channel).Verify()
        await call.write(target_pb2.VerifyRequest(open=OPEN))
        opened = await call.read()
        await call.write(target_pb2.VerifyRequest(**asked))
        verified = (await call.read()).verified
        opening = target_pb2.VerifyOpen(**OPEN)
        opening.handshake.expected.vocabulary_size = opened.opened.model.vocabulary_size
        check_verified(opening, target_pb2.VerifyRound(**asked["round"]), verified)
        call.cancel()
