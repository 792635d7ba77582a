"""A target service of two processes: the completions of one, and an end of all when one of them ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.completions import Completions
from orchestrator.server import CompletionServicer
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.rpc.server import Server
from tandem.v1 import completion_pb2, completion_pb2_grpc, target_pb2, target_pb2_grpc
from tests.cli.processes import environment
from tests.support.ranks import SECONDS, Rank, group, port_in, until
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, make_request, policy, trio

ROOT = Path(__file__).parents[2]
TOKENIZER = byte_tokenizer(257)
#: A text to the end of it outlasts what a test does to the group.
CONTEXT = 32768
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CRASH = "Traceback|terminate called|Segmentation|Aborted"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("group") / "tiny"
    tiny_llama(1, vocabulary=257, context=CONTEXT).model.save_pretrained(folder)
    TOKENIZER._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return folder


@contextmanager
def target(
    model: Path, folder: Path, *flags: str, module: str = "target_service.__main__"
) -> Iterator[list[Rank]]:
    """Two processes that serve `model`."""
    common = ["--model", str(model), "--dtype", "float32", "--port", "0", "--cache-bytes", "4MB"]
    with group(module, folder, *common, *flags) as ranks:
        yield ranks


@asynccontextmanager
async def orchestrator(port: int, draft: str | None = None) -> AsyncIterator[completion_pb2_grpc.CompletionServiceStub]:
    settings = OrchestratorSettings(target=f"127.0.0.1:{port}", draft=draft)
    upstream = Upstream(settings.target, settings.draft, connect_timeout_seconds=settings.connect_timeout_seconds)
    server = Server()
    servicer = CompletionServicer(Completions(TOKENIZER, upstream, settings))
    server.add(
        completion_pb2_grpc.add_CompletionServiceServicer_to_server, servicer, "tandem.v1.CompletionService"
    )
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        yield completion_pb2_grpc.CompletionServiceStub(channel)
    await upstream.close()


@asynccontextmanager
async def decoding(port: int, tokens: int) -> AsyncIterator[target_pb2_grpc.TargetServiceStub]:
    """A stream of the target that has given its first tokens and goes on for `tokens`."""
    async with connect(f"127.0.0.1:{port}") as channel:
        call = target_pb2_grpc.TargetServiceStub(channel).Verify()
        opened = {"handshake": make_handshake(), "prompt_token_ids": [1, 2, 3], "verification": 1}
        await call.write(target_pb2.VerifyRequest(open=opened))
        generate = {"round": 1, "continuation": {"position": 3}, "max_tokens": tokens}
        await call.write(target_pb2.VerifyRequest(generate=generate))
        for _ in range(5):
            assert await call.read() is not grpc.aio.EOF
        yield call


async def _rest_of(call: target_pb2_grpc.TargetServiceStub) -> TandemError | int:
    """What an open stream ends with, or how many tokens it had still to give."""
    count = 0
    try:
        async with asyncio.timeout(SECONDS):
            while (response := await call.read()) is not grpc.aio.EOF:
                count += 1
                if response.generated.last:
                    await call.done_writing()
    except grpc.aio.AioRpcError as error:
        return TandemError.from_rpc_error(error)
    return count


@asynccontextmanager
async def health(port: int) -> AsyncIterator[list[int]]:
    """Each state that the service tells of itself, as it does."""
    states: list[int] = []
    async with connect(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="tandem.v1.TargetService")
        )
        states.append((await watch.read()).status)

        async def follow() -> None:
            try:
                while (answer := await watch.read()) is not grpc.aio.EOF:
                    states.append(answer.status)
            except grpc.aio.AioRpcError:
                pass  # it has ended

        following = asyncio.create_task(follow())
        yield states
        following.cancel()


async def _end_of(*ranks: Rank) -> list[int]:
    return [await asyncio.to_thread(rank.end) for rank in ranks]


async def test_completions_are_those_of_one_process(model: Path, tmp_path: Path) -> None:
    requests = [
        ([1, 2], OFF, {"temperature": 0.0}),
        ([5] * 40, policy("fixed"), {"temperature": 0.0}),
        ([7, 8, 9], policy("fixed", "coupled"), {"temperature": 1.0, "seed": 4}),
    ]
    draft = tiny_llama(1, vocabulary=257, context=CONTEXT, noise=0.05)
    with target(model, tmp_path) as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with (
            trio(tiny_llama(1, vocabulary=257, context=CONTEXT), draft, TOKENIZER) as alone,
            orchestrator(port, alone.draft.address) as stub,
        ):
            made = []
            for prompt, chosen, sampling in requests:
                expected = await alone.complete(prompt, policy=chosen, max_tokens=60, sampling=sampling)
                request = make_request(prompt, speculation=chosen, max_tokens=60, sampling=sampling)
                made.append((request, expected))
            for request, expected in made:
                found = await stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=SECONDS)
                assert found.token_ids == expected.token_ids
                assert found.finish.speculation.accepted_tokens == expected.finish.speculation.accepted_tokens
            # And all at once, in steps of blocks of several lengths.
            several = [
                stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=SECONDS)
                for request, _ in made
            ]
            for call, (_, expected) in zip(several, made, strict=True):
                assert (await call).token_ids == expected.token_ids
        ranks[0].signal(signal.SIGTERM)
        assert await _end_of(*ranks) == [0, 0]
        assert not re.search(CRASH, ranks[0].log + ranks[1].log)


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_process_that_is_killed_while_decoding_ends_the_group(victim: int, model: Path, tmp_path: Path) -> None:
    with target(model, tmp_path) as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with decoding(port, 30_000) as call, decoding(port, 30_000) as other, health(port) as states:
            ranks[victim].signal(signal.SIGKILL)
            errors = [await _rest_of(call), await _rest_of(other)]
            codes = await _end_of(*ranks)
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
        for error in errors:
            assert isinstance(error, TandemError) and error.code is grpc.StatusCode.UNAVAILABLE
            if victim == 1:  # rank 0 lives to say it
                assert (error.reason, states[-1]) == ("SHUTTING_DOWN", NOT_SERVING)
                assert error.retry_after is not None and error.retry_after > 0
        survivor = ranks[1 - victim].log
        assert f"rank {victim} is gone" in survivor and not re.search(CRASH, survivor)


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_process_that_is_killed_while_idle_ends_the_group(victim: int, model: Path, tmp_path: Path) -> None:
    with target(model, tmp_path) as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with health(port) as states:
            assert states == [SERVING]
            ranks[victim].signal(signal.SIGKILL)
            codes = await _end_of(*ranks)
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
        assert victim == 0 or states[-1] == NOT_SERVING
        assert f"rank {victim} is gone" in ranks[1 - victim].log and not re.search(CRASH, ranks[1 - victim].log)


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_process_that_stands_still_ends_the_group(victim: int, model: Path, tmp_path: Path) -> None:
    """Its connections stay open, and the other hangs in a collective with it: no thread comes back from that."""
    with target(model, tmp_path, module="tests.services.impatient_target") as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with decoding(port, 30_000) as call, health(port) as states:
            ranks[victim].signal(signal.SIGSTOP)
            if victim == 1:
                error = await _rest_of(call)
                assert isinstance(error, TandemError) and error.reason == "SHUTTING_DOWN"
            assert await _end_of(ranks[1 - victim]) == [1]
            assert victim == 0 or states[-1] == NOT_SERVING
            assert f"rank {victim} has not been heard of for 2 s" in ranks[1 - victim].log
            ranks[victim].signal(signal.SIGCONT)
            assert await _end_of(ranks[victim]) == [1]
            assert f"rank {1 - victim} is gone" in ranks[victim].log


async def test_sigterm_to_all_lets_open_streams_end_first(model: Path, tmp_path: Path) -> None:
    with target(model, tmp_path, "--grace-seconds", "60") as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with decoding(port, 200) as call:
            for rank in ranks:  # as torchrun does
                rank.signal(signal.SIGTERM)
            assert await _rest_of(call) == 200 - 4  # the first answer opened the stream
        assert await _end_of(*ranks) == [0, 0]
        for rank in ranks:
            assert not re.search(CRASH, rank.log)


async def test_a_group_that_is_lost_while_it_drains_does_not_wait(model: Path, tmp_path: Path) -> None:
    """As under torchrun, which ends the others as soon as one has ended."""
    with target(model, tmp_path, "--grace-seconds", "600") as ranks:
        port = await asyncio.to_thread(ranks[0].port)
        async with decoding(port, 30_000) as call:
            ranks[0].signal(signal.SIGTERM)
            await asyncio.to_thread(until, lambda: True if "draining" in ranks[0].log else None, lambda: ranks[0].log)
            ranks[1].signal(signal.SIGKILL)
            error = await _rest_of(call)
        assert isinstance(error, TandemError) and error.reason == "SHUTTING_DOWN"
        assert await _end_of(ranks[0]) == [1]


@pytest.mark.parametrize(
    "world, flags, of_rank, line",
    [
        (3, [], {}, "tiny cannot be split over 3 processes: its 2 key heads divide among 1, 2"),
        (2, ["--weights", "int8"], {}, "--weights int8: quantised layers cannot be split over 2 processes"),
        (2, ["--device", "cuda:0"], {}, "--device cuda:0: each process of a group takes the GPU of its own number"),
        (2, [], {1: ["--dtype", "bfloat16"]}, "--dtype is bfloat16 on rank 1 and float32 on rank 0; start all alike"),
    ],
    ids=["heads", "quantised", "device", "unlike"],
)
def test_what_a_group_cannot_do_is_one_line(
    world: int, flags: list[str], of_rank: dict[int, list[str]], line: str, model: Path, tmp_path: Path
) -> None:
    common = ["--model", str(model), "--dtype", "float32", "--port", "0", *flags]
    with group("target_service.__main__", tmp_path, *common, world=world, of_rank=of_rank) as ranks:
        for rank in ranks:
            assert rank.end() == 2, rank.log
            assert rank.log.startswith(f"target_service: {line}") and rank.log.count("\n") == 1


def test_a_leader_that_cannot_listen_lets_the_others_go(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with target(model, tmp_path, "--port", str(port)) as ranks:
            assert [rank.end() for rank in ranks] == [2, 0]
    assert f"target_service: port {port} on 127.0.0.1 is taken" in ranks[0].log
    assert not re.search(CRASH, ranks[0].log + ranks[1].log)


def test_a_draft_service_is_no_group(model: Path, tmp_path: Path) -> None:
    with group("draft_service.__main__", tmp_path, "--model", str(model), "--port", "0") as ranks:
        for rank in ranks:
            assert rank.end() == 2
            assert rank.log.startswith("draft_service: WORLD_SIZE is 2: a draft service is one process")


async def test_torchrun_starts_a_group_and_ends_it(model: Path, tmp_path: Path) -> None:
    """The real one: its processes, its store, its way to end what is left when one of them ends."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    service = ["-m", "target_service", "--model", str(model), "--dtype", "float32", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, *torchrun, "--log-dir", str(tmp_path), "-r", "3", *service, "--cache-bytes", "4MB"],
        cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()

    def log(rank: int) -> str:
        return "".join(path.read_text() for path in tmp_path.glob(f"*/attempt_0/{rank}/stderr.log"))

    def pids() -> list[int]:
        try:
            found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(pid) for pid in found if b"target_service" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    try:
        port = await asyncio.to_thread(until, lambda: port_in(log(0)), lambda: log(0))
        started = pids()
        async with decoding(port, 30_000) as call:
            follower = next(
                pid for pid in started if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
            )
            os.kill(follower, signal.SIGKILL)
            error = await _rest_of(call)
        assert isinstance(error, TandemError) and error.reason == "SHUTTING_DOWN"
        assert await asyncio.to_thread(process.wait, SECONDS) == 1
        assert "rank 1 is gone: no longer serving" in log(0) and not re.search(CRASH, log(0))
        assert len(started) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)
    finally:
        timer.cancel()
        for pid in pids():
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
