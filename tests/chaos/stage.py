"""All that a run needs: two drafts, two targets, two orchestrators, and a link wherever one calls another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import grpc

from tandem.rpc.channels import connect
from tandem.v1 import (
    completion_pb2,
    completion_pb2_grpc,
    draft_pb2,
    draft_pb2_grpc,
    model_pb2,
    target_pb2,
    target_pb2_grpc,
)
from tests.chaos.forks import Starter
from tests.chaos.links import Links
from tests.chaos.models import Models
from tests.chaos.processes import Process

#: Of every service; what is still open then is cut off.
GRACE_SECONDS = 5.0
DRAFTS, TARGETS = ("draft0", "draft1"), ("target0", "target1")
ORCHESTRATORS = ("orchestrator0", "orchestrator1")
SERVICES = (*DRAFTS, *TARGETS)
#: Bounds memory, which is taken as the cache is first written to.
_CACHE = "64MiB"


def link(caller: str, service: str) -> str:
    return f"{caller}>{service}"


def links_of(service: str) -> list[str]:
    """All that lead to it."""
    if service in ORCHESTRATORS:
        return [link("grpc", service), link("http", service)]
    return [link(orchestrator, service) for orchestrator in ORCHESTRATORS]


class Stage:
    """Starts all in the background of each other, and ends all; `logs` stays."""

    def __init__(self, models: Models, links: Links, starters: Mapping[str, Starter], logs: Path) -> None:
        """starters: of `models` and of `orchestrator`."""
        self.links = links
        self.processes: dict[str, Process] = {}
        self._models = models
        self._starters = starters
        self._logs = logs

    async def start(self) -> None:
        """Raises ServiceFailed."""
        for service in (*SERVICES, *ORCHESTRATORS):
            for name in links_of(service):
                await self.links.open(name)
        common = ["--grace-seconds", str(GRACE_SECONDS)]
        on_models = [*common, "--dtype", "float32", "--threads", "1", "--device", "cpu", "--cache-bytes", _CACHE]
        for names, module, model in (
            (DRAFTS, "draft_service", self._models.draft),
            (TARGETS, "target_service", self._models.target),
        ):
            for name in names:
                flags = ["--model", model, *on_models]
                self.processes[name] = Process(name, module, flags, self._logs, self._starters["models"])
        for name in ORCHESTRATORS:
            flags = [*common, "--tokenizer", self._models.target, "--http-port", "0"]
            for flag, services in (("--target", TARGETS), ("--draft", DRAFTS)):
                ports = (self.links.ports[link(name, service)] for service in services)
                flags += [flag, ",".join(f"127.0.0.1:{port}" for port in ports)]
            starter = self._starters["orchestrator"]
            self.processes[name] = Process(name, "orchestrator", flags, self._logs, starter)
        await asyncio.gather(*(self.up(name) for name in self.processes))

    async def up(self, name: str) -> None:
        """Starts a process and leads its links there. Raises ServiceFailed."""
        process = self.processes[name]
        await process.start()
        for index, each in enumerate(links_of(name)):
            await self.links.lead(each, process.ports[index if name in ORCHESTRATORS else 0])

    async def down(self, name: str) -> None:
        """After its end: nobody listens there."""
        for each in links_of(name):
            await self.links.lead(each, None)

    def address(self, orchestrator: str, face: str = "grpc") -> str:
        return f"127.0.0.1:{self.links.ports[link(face, orchestrator)]}"

    async def load(self, name: str) -> model_pb2.Load:
        """Of a draft or a target, asked without a link."""
        async with connect(f"127.0.0.1:{self.processes[name].ports[0]}") as channel:
            if name in DRAFTS:
                stub = draft_pb2_grpc.DraftServiceStub(channel)
                return (await stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest(), timeout=10)).load
            target = target_pb2_grpc.TargetServiceStub(channel)
            return (await target.GetTargetLoad(target_pb2.GetTargetLoadRequest(), timeout=10)).load

    async def told_by(self, orchestrator: str) -> completion_pb2.GetLoadResponse:
        """How busy an orchestrator is, and how it sees the services; asked without a link."""
        async with connect(f"127.0.0.1:{self.processes[orchestrator].ports[0]}") as channel:
            stub = completion_pb2_grpc.CompletionServiceStub(channel)
            return await stub.GetLoad(completion_pb2.GetLoadRequest(), timeout=20)

    async def until_whole(self, seconds: float) -> str:
        """Waits until every orchestrator gives sequences to every service; what is missing at the end, or nothing."""
        ready, missing = completion_pb2.REPLICA_STATE_READY, ""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            missing = ""
            for name in ORCHESTRATORS:
                try:
                    told = await self.told_by(name)
                except grpc.aio.AioRpcError as error:
                    missing = f"{name} does not say its load: {error.code().name}"
                    continue
                count = sum(each.state == ready for each in (*told.targets, *told.drafts))
                if count < len(SERVICES):
                    problems = [each.problem for each in (*told.targets, *told.drafts) if each.state != ready]
                    missing = f"{name} uses {count} of {len(SERVICES)}: {problems[0]}"
            if not missing:
                return ""
            await asyncio.sleep(0.2)
        return missing

    async def close(self) -> None:
        await asyncio.gather(*(process.close() for process in self.processes.values()))
