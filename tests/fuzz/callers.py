"""An orchestrator beside callers who say anything, and who leave or do not read; and one who behaves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import grpc

from tandem.v1 import completion_pb2, grammar_pb2
from tests.fuzz.report import Tally, logged_defects
from tests.fuzz.running import resident_bytes
from tests.fuzz.seeded import disturbed, message, torn, with_unknown
from tests.fuzz.services import CACHE_BYTES, LIMIT, MOST_GROWN, WORKERS, beside, nothing_left
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import OFF, Trio, make_request, policy, trio

CONTEXT = 48
_VOCABULARY = 257
_TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}{{ tools }}"
_METHODS = {
    "Complete": completion_pb2.CompleteRequest,
    "CompleteOnce": completion_pb2.CompleteOnceRequest,
    "Tokenize": completion_pb2.TokenizeRequest,
    "Detokenize": completion_pb2.DetokenizeRequest,
    "GetModels": completion_pb2.GetModelsRequest,
    "GetLoad": completion_pb2.GetLoadRequest,
}
_WEIGHTS = (8, 4, 1, 1, 1, 1)
_BROKEN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION")


async def fuzz(messages: int, seed: int) -> Tally:
    """So many requests."""
    tally = Tally("orchestrator, callers")
    models = (
        tiny_llama(5, vocabulary=_VOCABULARY, context=CONTEXT),
        tiny_llama(5, vocabulary=_VOCABULARY, noise=0.1, context=CONTEXT),
    )
    caches = dict.fromkeys(("target_cache_bytes", "draft_cache_bytes"), CACHE_BYTES)
    async with trio(*models, byte_tokenizer(_VOCABULARY, template=_TEMPLATE, ends=(END,)), **caches) as services:
        async with grpc.aio.insecure_channel(services.orchestrator.address) as channel:
            behaves = await behaving(services)
            began, tasks, warm, numbers = time.perf_counter(), len(asyncio.all_tasks()), 0, count()

            async def work() -> None:
                nonlocal warm
                while tally.messages < messages:
                    where = f"callers, seed {seed}, call {next(numbers)}"
                    await _call(channel, random.Random(where), tally, where)
                    if not warm and tally.messages * 4 > messages:
                        warm = resident_bytes()

            with logged_defects(tally):
                async with beside(behaves, tally):
                    await asyncio.gather(*(work() for _ in range(WORKERS)))
                tally.grown_bytes = resident_bytes() - warm
                if tally.grown_bytes > MOST_GROWN:
                    tally.defects.append(f"memory grew by {tally.grown_bytes >> 20} MiB")
                for engine in (services.target_engine, services.draft_engine):
                    assert engine is not None
                    name = "tandem.v1.CompletionService"
                    await nothing_left(tally, services.orchestrator, engine, tasks, name, channel)
            tally.seconds = time.perf_counter() - began
    return tally


async def behaving(services: Trio) -> Callable[[], Awaitable[str]]:
    """Asks for a text that it knows, in one of several ways, and says what was different."""
    ways: list[dict[str, Any]] = [
        {"policy": OFF}, {"policy": policy("fixed")}, {"policy": policy("goodput")},
        {"policy": policy("fixed", "coupled"), "sampling": {"temperature": 1.0, "seed": 4}},
    ]  # fmt: skip
    expected = {}
    for temperature in (0.0, 1.0):
        alone = await services.complete([1, 2], max_tokens=20, sampling={"temperature": temperature, "seed": 4})
        expected[temperature] = list(alone.token_ids)

    async def behaves() -> str:
        way = random.choice(ways)
        found = await services.complete([1, 2], max_tokens=20, timeout=LIMIT, **way)
        right = expected[way.get("sampling", {}).get("temperature", 0.0)]
        return "" if list(found.token_ids) == right else f"{list(found.token_ids)} instead of {right}"

    return behaves


def _good(drawn: random.Random) -> completion_pb2.CompleteRequest:
    fields: dict[str, Any] = {
        "max_tokens": drawn.choice((1, 5, 30)),
        "sampling": {"temperature": drawn.choice((0.0, 1.0)), "seed": drawn.getrandbits(63)},
        "speculation": drawn.choice((
            OFF, policy("fixed"), policy("goodput"), policy("adaedl", "ratio"), policy("adasd", "adasd"),
            policy("fixed", "jsd", threshold=0.3), policy("confidence", "coupled"),
        )),
        "audit": drawn.random() < 0.3,
        "stop": ["x"] if drawn.random() < 0.2 else [],
    }  # fmt: skip
    if drawn.random() < 0.2:
        fields["log_probabilities"] = drawn.choice((0, 3, 20))
    if fields["sampling"]["temperature"] and drawn.random() < 0.2:
        fields["n"] = 3
    if drawn.random() < 0.1:
        fields["grammar"] = grammar_pb2.Grammar(regex="[a-f]{1,9}")
    return make_request([drawn.randrange(1, _VOCABULARY) for _ in range(drawn.randint(1, 9))], **fields)


def _request(drawn: random.Random, method: str) -> bytes:
    if method not in ("Complete", "CompleteOnce"):
        return bytes(torn(drawn, b"")) if drawn.random() < 0.2 else _random(drawn, method)
    good = _good(drawn)
    made: Any = good if method == "Complete" else completion_pb2.CompleteOnceRequest(completion=good)
    match drawn.randrange(8):
        case 0:
            return bytes(torn(drawn, made.SerializeToString()))
        case 1:
            return bytes(with_unknown(drawn, made.SerializeToString()))
        case 2:
            return _random(drawn, method)
        case 3:
            return bytes(made.SerializeToString())
        case _:
            return bytes(disturbed(drawn, made).SerializeToString())


def _random(drawn: random.Random, method: str) -> bytes:
    return bytes(message(drawn, _METHODS[method]).SerializeToString())


async def _call(channel: grpc.aio.Channel, drawn: random.Random, tally: Tally, where: str) -> None:
    method = drawn.choices(list(_METHODS), _WEIGHTS)[0]
    path, data = f"/tandem.v1.CompletionService/{method}", _request(drawn, method)
    tally.messages += 1
    call: Any = (channel.unary_stream if method == "Complete" else channel.unary_unary)(path)(data)
    try:
        async with asyncio.timeout(LIMIT):
            with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await _leave_or_read(call, drawn, method)
            status, details = (await call.code()).name, str(await call.details())
    except TimeoutError:
        tally.defects.append(f"{where}: hangs")
        status, details = "HANGS", ""
        call.cancel()
    if status in _BROKEN:
        tally.defects.append(f"{where}: {status}: {details}")
    tally.ended(status, details, where)


async def _leave_or_read(call: Any, drawn: random.Random, method: str) -> None:
    ends = drawn.randrange(8)
    if ends == 0:
        await asyncio.sleep(drawn.choice((0, 0.001, 0.02)))
        call.cancel()
    elif method != "Complete":
        await call
    elif ends == 1:
        await call.read()
        call.cancel()
    elif ends == 2:  # does not read for a while
        await asyncio.sleep(0.05)
        call.cancel()
    else:
        while await call.read() is not grpc.aio.EOF:
            pass
