"""An orchestrator between good callers and hostile drafts or targets: what becomes of the texts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc

from draft_service.drafters.model import ModelDrafter
from draft_service.server import DraftServicer
from orchestrator.completions import Completions
from orchestrator.server import completion_service
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.inference.engine import Engine
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc, draft_pb2_grpc, target_pb2_grpc
from tandem.wire import model_info
from target_service.server import TargetServicer
from tests.fuzz.report import Tally, logged_defects
from tests.fuzz.running import resident_bytes
from tests.fuzz.servers import HostileDraft, HostileForeseeing, HostileTarget, Hostility, add_draft, add_target
from tests.support.foreseeing import ForeseeingDraft, Foresight
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, make_request, policy, serve_model

#: Completions at once.
WORKERS = 16
#: Seconds after which a completion hangs.
LIMIT = 60.0
TOKENS = 14
_TOKENIZER = byte_tokenizer(64)
_SAMPLED = {"temperature": 1.0, "seed": 3}
#: Ways to ask whose text is the target's own, whatever the draft does; and others, which only have to end well.
CERTAIN: tuple[dict[str, Any], ...] = (
    {"speculation": policy("fixed")},
    {"speculation": policy("goodput")},
    {"speculation": policy("adaedl"), "log_probabilities": 3},
    {"speculation": OFF},
    {"speculation": OFF, "log_probabilities": 0, "sampling": _SAMPLED},
    {"speculation": policy("fixed", "coupled"), "sampling": _SAMPLED},
    {"speculation": policy("goodput", "coupled"), "sampling": _SAMPLED, "audit": True},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"speculation": policy("fixed", "ratio"), "sampling": _SAMPLED},
    {"speculation": policy("goodput", "block"), "sampling": _SAMPLED},
    {"speculation": policy("adasd", "adasd"), "sampling": _SAMPLED},
    {"speculation": policy("adasd", "adasd-kde")},
    {"speculation": policy("fixed", "jsd", threshold=0.4), "audit": True},
)


@dataclass(frozen=True)
class Scene:
    """Which services there are, and what the hostile ones do. never_fails: completions end well, all of them.
    is_certain: texts are known. waits: seconds that a completion waits for another target. is_patient: whether it waits
    long for a draft. foresight: with which the drafts look ahead; None where they do not."""

    name: str
    targets: Sequence[Hostility | None]
    drafts: Sequence[Hostility | None]
    never_fails: bool = False
    is_certain: bool = True
    waits: float = 20.0
    is_patient: bool = True
    foresight: Foresight | None = None

    @property
    def hostile(self) -> list[Hostility]:
        return [each for each in (*self.targets, *self.drafts) if each is not None]


def scenes(seed: int) -> list[Scene]:
    """Those that a run goes through."""

    def hostility(name: str, **does: Any) -> Hostility:
        return Hostility(random.Random(f"{name}, seed {seed}"), **does)

    return [
        Scene("drafts", [None], [hostility("draft", lies=True, silent=True)], never_fails=True, is_patient=False),
        Scene("draft of two", [None], [None, hostility("other draft", lies=True)], never_fails=True),
        Scene("target of two", [None, hostility("target")], [None]),
        Scene("targets", [hostility("targets", lies=True, share=0.1)], [None], is_certain=False, waits=0.5),
        Scene(
            "all",
            [hostility("all targets", lies=True, share=0.1)],
            [hostility("all drafts", lies=True)],
            is_certain=False,
            waits=0.5,
        ),
    ]


@dataclass
class Fleet:
    """engines: the target's and the draft's, which all of them share."""

    stub: completion_pb2_grpc.CompletionServiceStub
    orchestrator: Server
    engines: tuple[Engine, Engine]
    upstream: Upstream


@asynccontextmanager
async def fleet(scene: Scene, **settings: object) -> AsyncGenerator[Fleet]:
    """Starts it. The models are the same in every scene."""
    async with AsyncExitStack() as stack:
        target, draft = serve_model(tiny_llama(1), _TOKENIZER), serve_model(tiny_llama(1, noise=0.05), _TOKENIZER, "d")
        for served in (target, draft):
            served.engine.start()
            stack.push_async_callback(served.engine.close)
        places: dict[str, list[str]] = {"target": [], "draft": []}
        for hostility in scene.targets:
            servicer: Any = (HostileTarget if hostility else TargetServicer)(
                target.engine, model_info(target), target.grammars
            )
            servicer.hostility = hostility
            add: Any = add_target if hostility else target_pb2_grpc.add_TargetServiceServicer_to_server
            places["target"].append(await _served(stack, add, servicer, "tandem.v1.TargetService"))
        for hostility in scene.drafts:
            drafter = ModelDrafter(draft.engine, model_info(draft), sayable=draft.loaded.sayable)
            if scene.foresight is None:
                servicer = (HostileDraft if hostility else DraftServicer)(drafter, draft.grammars)
            else:
                servicer = (HostileForeseeing if hostility else ForeseeingDraft)(drafter, draft.grammars)
                servicer.foresight = scene.foresight
            servicer.hostility = hostility
            add = add_draft if hostility else draft_pb2_grpc.add_DraftServiceServicer_to_server
            places["draft"].append(await _served(stack, add, servicer, "tandem.v1.DraftService"))
        configured = OrchestratorSettings(
            target=",".join(places["target"]),
            draft=",".join(places["draft"]) or None,
            **{"connect_timeout_seconds": 20.0, "draft_timeout_seconds": 20.0, **settings},
        )
        upstream = Upstream(
            configured.target, configured.draft, connect_timeout_seconds=configured.connect_timeout_seconds
        )
        stack.push_async_callback(upstream.close)
        server = Server()
        completions = Completions(_TOKENIZER, upstream, configured)
        await stack.enter_async_context(completion_service(server, completions, upstream))
        await stack.enter_async_context(server)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        yield Fleet(stub, server, (target.engine, draft.engine), upstream)


async def _served(stack: AsyncExitStack, add: Any, servicer: Any, name: str) -> str:
    server = Server()
    server.add(add, servicer, name)
    await stack.enter_async_context(server)
    return server.address


async def known_texts() -> list[list[int]]:
    """Of each of `CERTAIN`, by services that behave."""
    async with fleet(Scene("true", [None], [None])) as services:
        return [await complete(services, way) for way in CERTAIN]


async def complete(services: Fleet, way: dict[str, Any]) -> list[int]:
    """Raises AioRpcError."""
    request = make_request([1, 2], max_tokens=TOKENS, **way)
    answer = await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=LIMIT)
    return list(answer.token_ids)


async def play(scene: Scene, messages: int, expected: list[list[int]]) -> Tally:
    """Until so many answers have come from the hostile services; or, where they are left alone for what they have said,
    half as many completions have ended."""
    tally = Tally(f"orchestrator, {scene.name}")
    ways = [*CERTAIN, *OTHERS]
    numbers = count()

    async def work(services: Fleet) -> None:
        while sum(each.messages for each in scene.hostile) < messages:
            number = next(numbers)
            if number > max(20, messages // 2):
                return
            where = f"{scene.name}, completion {number}"
            at = number % len(ways)
            try:
                found = await complete(services, ways[at])
            except grpc.aio.AioRpcError as error:
                status, details = error.code().name, error.details() or ""
                tally.ended(status, details, where)
                if scene.never_fails or status == "DEADLINE_EXCEEDED":
                    tally.defects.append(f"{where}: {status}: {details[:200]}")
                continue
            tally.ended("OK", "", where)
            if len(found) != TOKENS:
                tally.defects.append(f"{where}: {len(found)} tokens")
            elif scene.is_certain and at < len(CERTAIN) and found != expected[at]:
                tally.defects.append(f"{where}, way {at}: {found} instead of {expected[at]}")
            else:
                tally.good += 1

    began, warm = time.perf_counter(), resident_bytes()
    with logged_defects(tally):
        waits = {"connect_timeout_seconds": scene.waits, "draft_timeout_seconds": 20.0 if scene.is_patient else 2.0}
        async with fleet(scene, **waits) as services:
            await asyncio.gather(*(work(services) for _ in range(WORKERS)))
            await _nothing_left(tally, services)
    tally.messages = sum(each.messages for each in scene.hostile)
    tally.seconds, tally.grown_bytes = time.perf_counter() - began, max(0, resident_bytes() - warm)
    return tally


async def _nothing_left(tally: Tally, services: Fleet) -> None:
    """No sequence and no block of the cache."""
    try:
        async with asyncio.timeout(LIMIT):
            while any(engine.load().sequences or engine.load().cache_bytes for engine in services.engines):
                await asyncio.sleep(0.05)
    except TimeoutError:
        tally.defects.append("sequences or blocks are left over")
