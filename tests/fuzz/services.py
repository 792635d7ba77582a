"""A draft or a target beside orchestrators that say anything, many at once, and one who behaves and must not notice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.ending import Ending
from tandem.inference.engine import Engine, EngineLimits
from tandem.rpc.server import Server
from tandem.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from tests.fuzz.report import Tally, logged_defects
from tests.fuzz.running import resident_bytes
from tests.fuzz.talks import CONTEXT, GREEDY, VOCABULARY, DraftTalk, Talk, TargetTalk
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import trio

#: Streams at once.
WORKERS = 24
#: Seconds after which a stream hangs.
LIMIT = 30.0
_TALKS: dict[str, type[Talk]] = {"draft": DraftTalk, "target": TargetTalk}
_NAMES = {"draft": "tandem.v1.DraftService", "target": "tandem.v1.TargetService"}
# What a stream is refused with only by a service that breaks.
_BROKEN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
# Small, so that it is full of what is left of others all the time, and what memory grows by is not the cache's.
CACHE_BYTES = 2 << 20
MOST_GROWN = 64 << 20


async def fuzz(side: str, messages: int, seed: int) -> Tally:
    """Says so many messages to a `draft` or a `target`."""
    tally = Tally(side)
    models = (tiny_llama(1, context=CONTEXT), tiny_llama(1, noise=0.1, context=CONTEXT))
    caches = dict.fromkeys(("target_cache_bytes", "draft_cache_bytes"), CACHE_BYTES)
    ahead = EngineLimits(ahead_rows=16)
    async with trio(*models, byte_tokenizer(VOCABULARY), draft_limits=ahead, **caches) as services:
        server, engine = (
            (services.draft, services.draft_engine) if side == "draft" else (services.target, services.target_engine)
        )
        assert server is not None and engine is not None
        async with grpc.aio.insecure_channel(server.address) as channel:
            behaves = await _behaving(side, channel)
            began, tasks = time.perf_counter(), len(asyncio.all_tasks())
            with logged_defects(tally):
                await _say_all(side, channel, tally, messages, seed, behaves)
                await nothing_left(tally, server, engine, tasks, _NAMES[side], channel)
            tally.seconds = time.perf_counter() - began
    return tally


async def _say_all(
    side: str, channel: grpc.aio.Channel, tally: Tally, messages: int, seed: int, behaves: Callable[[], Awaitable[str]]
) -> None:
    numbers, warm = count(), 0

    async def work() -> None:
        nonlocal warm
        while tally.messages < messages:
            where = f"{side}, seed {seed}, stream {next(numbers)}"
            await _stream(channel, _TALKS[side](random.Random(where)), tally, where)
            if not warm and tally.messages * 4 > messages:
                warm = resident_bytes()

    async with beside(behaves, tally):
        await asyncio.gather(*(work() for _ in range(WORKERS)))
    tally.grown_bytes = resident_bytes() - warm
    if tally.grown_bytes > MOST_GROWN:
        tally.defects.append(f"memory grew by {tally.grown_bytes >> 20} MiB")


@asynccontextmanager
async def beside(behaves: Callable[[], Awaitable[str]], tally: Tally) -> AsyncGenerator[None]:
    """While it lasts, somebody behaves, again and again; `behaves` says what was wrong with what that came to."""
    over = asyncio.Event()

    async def again() -> None:
        while not over.is_set() or not tally.good:
            try:
                async with asyncio.timeout(LIMIT):
                    problem = await behaves()
            except Exception as error:
                problem = repr(error)
            if problem:
                tally.defects.append(f"one who behaves: {problem}")
                return
            tally.good += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        over.set()
        await task


async def _stream(channel: grpc.aio.Channel, talk: Talk, tally: Tally, where: str) -> None:
    """One talk: good messages, then others, then an end."""
    call = channel.stream_stream(talk.path)()
    ending = Ending(call)
    try:
        async with asyncio.timeout(LIMIT):
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await _talk(call, talk, tally)
            status, details = (await call.code()).name, str(await call.details())
    except TimeoutError:
        tally.defects.append(f"{where}: hangs")
        status, details = "HANGS", ""
    finally:
        call.cancel()
        ending.close()  # else the fuzzer itself leaves calls behind
    if details == "Internal error from Core":  # grpc's own, of a write to a stream that has just ended
        status = "ENDED WHILE WRITING"
    if status in _BROKEN:
        tally.defects.append(f"{where}: {status}: {details}")
    tally.ended(status, details, where)


async def _talk(call: Any, talk: Talk, tally: Tally) -> None:
    drawn = talk.drawn

    async def say(data: bytes) -> None:
        tally.messages += 1
        await call.write(data)

    async def exchange(data: bytes) -> None:
        await say(data)
        while not talk.is_silent and (answer := await call.read()) is not grpc.aio.EOF:
            if talk.took(answer):
                return

    if drawn.random() < 0.8:
        await exchange(talk.first().SerializeToString())
        for _ in range(drawn.choice((0, 1, 2, 4))):
            if talk.goes_on:
                await exchange(talk.next().SerializeToString())
    for _ in range(drawn.choice((0, 1, 1, 2, 4))):
        await say(talk.hostile())
        if drawn.random() < 0.3:
            await asyncio.sleep(drawn.choice((0, 0.001, 0.01)))
    match drawn.randrange(4):
        case 0:
            call.cancel()
        case 1:  # leaves what comes unread
            await asyncio.sleep(0.002)
            call.cancel()
        case _:
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass


async def nothing_left(
    tally: Tally, server: Server, engine: Engine, tasks: int, name: str, channel: grpc.aio.Channel
) -> None:
    """Once all streams have ended: no sequence, no block of the cache, no place, no task; and the service serves."""
    limit = server._interceptors[-1]._limit  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                load = engine.load()
                left = {
                    "sequences": load.sequences, "works": load.waiting, "bytes of cache": load.cache_bytes,
                    "places": limit.open, "tasks": max(0, len(asyncio.all_tasks()) - tasks),
                }  # fmt: skip
                if not any(left.values()):
                    break
                await asyncio.sleep(0.05)
    except TimeoutError:
        tally.defects.append("left over: " + ", ".join(f"{value} {what}" for what, value in left.items() if value))
    asked = health_pb2.HealthCheckRequest(service=name)
    health = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=LIMIT)
    if health.status != health_pb2.HealthCheckResponse.SERVING:
        tally.defects.append("it does not serve any more")


# Those who behave.

_OPENING = {"handshake": {"protocol_version": 1}, "prompt_token_ids": [1, 2, 3], "verification": GREEDY}
_ROUNDS, _LENGTH = 5, 4


async def _behaving(side: str, channel: grpc.aio.Channel) -> Callable[[], Awaitable[str]]:
    """Does what it did when it was alone, and says what was different."""
    does = (_draft_alone if side == "draft" else _verify)(channel)
    expected = await does()

    async def behaves() -> str:
        found = await does()
        return "" if found == expected else f"{found} instead of {expected}"

    return behaves


def _draft_alone(channel: grpc.aio.Channel) -> Callable[[], Awaitable[list[int]]]:
    stub = draft_pb2_grpc.DraftServiceStub(channel)

    async def drafts() -> list[int]:
        call, found, position, kept = stub.Draft(), [], 3, 0
        await call.write(draft_pb2.DraftRequest(open=_OPENING))
        await call.read()
        for number in range(_ROUNDS):
            continuation = {"position": position, "kept": kept, "token_ids": [7] if number else []}
            asked = {"round": number, "continuation": continuation, "limits": {"max_tokens": _LENGTH}}
            await call.write(draft_pb2.DraftRequest(round=asked))
            found += list((await call.read()).block.block.token_ids)
            position, kept = position + bool(number) + 2, 2
        call.cancel()
        return found

    return drafts


def _verify(channel: grpc.aio.Channel) -> Callable[[], Awaitable[list[int]]]:
    """The greedy text, by rounds with candidates of chance."""
    stub = target_pb2_grpc.TargetServiceStub(channel)

    async def verifies() -> list[int]:
        call, found, position, follows = stub.Verify(), list[int](), 3, list[int]()
        await call.write(target_pb2.VerifyRequest(open=_OPENING))
        await call.read()
        for number in range(_ROUNDS):
            continuation = {"position": position, "token_ids": follows}
            position += len(follows)
            block = {"position": position, "token_ids": [random.randrange(VOCABULARY) for _ in range(_LENGTH)]}
            await call.write(
                target_pb2.VerifyRequest(round={"round": number, "continuation": continuation, "block": block})
            )
            verified = (await call.read()).verified
            follows = [verified.target_token_ids[0]]
            found += follows
        asked = {"round": _ROUNDS, "continuation": {"position": position, "token_ids": follows}, "max_tokens": 10}
        await call.write(target_pb2.VerifyRequest(generate=asked))
        while not (token := (await call.read()).generated).last:
            found.append(token.token_id)
        call.cancel()
        return found

    return verifies
