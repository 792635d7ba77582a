"""One trace for each completion, across the three services, as a receiver of OTLP gets it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2
import pytest

from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import HttpServer
from tandem.telemetry import Telemetry, spans
from tandem.telemetry.otlp import OtlpTracing
from tandem.telemetry.services import ModelTelemetry
from tandem.v1 import completion_pb2
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, Telemetries, Trio, make_request, policy, trio
from tests.telemetry.receiver import Receiver, Seen, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
BELOW = {span.name: set(span.below.split(" or ")) for span in spans.SPANS}


@dataclass(slots=True)
class Traced:
    """Running services whose spans go to `receiver`; all have come once `collected` returns."""

    services: Trio
    told: Telemetries
    receiver: Receiver

    async def ask(self, request: completion_pb2.CompleteRequest, *headers: tuple[str, str]) -> completion_pb2.Finish:
        finish = None
        async for response in self.services.stub.Complete(request, metadata=headers, timeout=60.0):
            finish = response.finish if response.HasField("finish") else finish
        assert finish is not None
        return finish

    async def collected(self) -> Receiver:
        for telemetry in (self.told.orchestrator, self.told.draft, self.told.target):
            await telemetry.tracing.close()
        return self.receiver


@asynccontextmanager
async def traced(
    *, share: float = 1.0, share_of_models: float = 1.0, draft: bool = True, noise: float = 0.1, **more: Any
) -> AsyncGenerator[Traced]:
    """Closed services have ended all their streams, so leave this before `collected`. more: of `trio`."""
    target = tiny_llama(2, vocabulary=129)
    async with receiving() as receiver:
        told = Telemetries(
            Telemetry(OtlpTracing("orchestrator", receiver.endpoint, share)),
            ModelTelemetry("draft", OtlpTracing("draft", f"http://{receiver.endpoint}", share_of_models)),
            ModelTelemetry("target", OtlpTracing("target", receiver.endpoint, share_of_models)),
        )
        drafting = tiny_llama(2, vocabulary=129, noise=noise) if draft else None
        async with trio(target, drafting, byte_tokenizer(129), telemetry=told, **more) as services:
            yield Traced(services, told, receiver)


async def finished(running: Traced) -> Receiver:
    """Waits for the streams of draft and target, which end after the caller has its answer."""
    import asyncio

    engines = [running.services.target_engine, running.services.draft_engine]
    async with asyncio.timeout(20):
        while any(engine is not None and engine.load().sequences for engine in engines):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    return await running.collected()


def check_tree(receiver: Receiver) -> None:
    """Every span lies below one that it may lie below, and has no attribute that is not its own."""
    known, own = receiver.by_id(), {span.name: span for span in spans.SPANS}
    assert len(known) == len(receiver.spans)
    for span in receiver.spans:
        assert set(span.attributes) <= {spans.PREFIX + key for key in own[span.name].attributes}, span
        assert span.kind == own[span.name].kind and span.began <= span.ended
        if span.name != spans.REQUEST.name:
            above = known[span.parent]
            assert above.name in BELOW[span.name] and above.trace == span.trace, (span, above)


def attribute(span: Seen, name: str) -> str | int | float:
    return span.attributes[spans.PREFIX + name]


async def test_a_completion_is_one_trace_across_the_three_services() -> None:
    async with traced() as running:
        request = make_request([1, 2, 3], speculation=policy("fixed", max_tokens=3), max_tokens=30, request_id="mine")
        finish = await running.ask(request, ("traceparent", SAMPLED))
        found = await finished(running)
    check_tree(found)
    assert {span.trace for span in found.spans} == {TRACE}
    assert {span.service for span in found.spans} == {"tandem-orchestrator", "tandem-draft", "tandem-target"}
    (asked,) = found.named("tandem.request")
    assert asked.parent == PARENT and not asked.error
    assert attribute(asked, "request_id") == "mine" and attribute(asked, "outcome") == "ok"
    (completion,) = found.named("tandem.completion")
    report, usage = finish.speculation, finish.usage
    assert attribute(completion, "tokens") == usage.completion_tokens == 30
    assert attribute(completion, "outcome") == "length" and attribute(completion, "stop_rule") == "fixed"
    assert attribute(completion, "acceptance_rate") == pytest.approx(report.draft_acceptance_rate, abs=1e-3)
    counts = Counter(span.name for span in found.spans)
    rounds = [span for span in found.named("tandem.round") if "tandem.accepted_tokens" in span.attributes]
    assert len(rounds) == report.verify_steps and counts["tandem.prefill"] == 1
    assert sum(attribute(span, "block_tokens") for span in rounds) == report.drafted_tokens
    assert sum(attribute(span, "accepted_tokens") for span in rounds) == report.accepted_tokens
    assert all(attribute(span, "draft_entropy") >= 0 for span in rounds)
    assert counts["tandem.draft"] == report.verify_steps
    assert counts["tandem.verify"] == counts["tandem.round"] + 1
    # What the services did: a stream each, below the completion, with as many blocks as they were asked for.
    for side, asked_for in (("draft", counts["tandem.draft"]), ("target", counts["tandem.verify"])):
        (stream,) = found.named(f"tandem.{side}.stream")
        assert stream.service == f"tandem-{side}" and stream.parent == completion.id
        assert attribute(stream, "request_id") == "mine" and attribute(stream, "outcome") == "closed"
        assert attribute(stream, "blocks") == counts[f"tandem.{side}.block"] == asked_for
    for name in ("tandem.draft", "tandem.verify", "tandem.draft.block", "tandem.target.block"):
        assert all(attribute(span, "queue_seconds") >= 0 for span in found.named(name))
        assert any(attribute(span, "compute_seconds") > 0 for span in found.named(name))
    micros = round(sum(attribute(span, "compute_seconds") for span in found.named("tandem.draft.block")) * 1e6)
    assert micros == report.time.draft_compute_microseconds


async def test_a_round_holds_its_exchanges_in_time() -> None:
    async with traced() as running:
        await running.ask(make_request([1, 2], speculation=policy("adasd", "jsd", threshold=0.4), max_tokens=60))
        found = await finished(running)
    check_tree(found)
    known = found.by_id()
    for span in found.spans:
        if span.service == "tandem-orchestrator" and span.name != "tandem.request":
            assert known[span.parent].began <= span.began and span.ended <= known[span.parent].ended
    (asked,) = found.named("tandem.request")
    assert asked.parent == "" and len({span.trace for span in found.spans}) == 1


async def test_what_the_target_makes_alone_is_one_span() -> None:
    async with traced(draft=False) as running:
        await running.ask(make_request([1, 2], speculation=OFF, max_tokens=25))
        found = await finished(running)
    check_tree(found)
    counts = Counter(span.name for span in found.spans)
    assert counts["tandem.generate"] == counts["tandem.prefill"] == counts["tandem.target.block"] == 1
    assert attribute(found.named("tandem.generate")[0], "tokens") == 25
    assert attribute(found.named("tandem.target.block")[0], "tokens") == 25
    assert not found.named("tandem.round")


async def test_every_choice_has_a_completion_of_its_own() -> None:
    async with traced() as running:
        sampling = {"temperature": 1.0, "seed": 1}
        await running.ask(make_request([1], speculation=policy("fixed"), max_tokens=12, n=3, sampling=sampling))
        found = await finished(running)
    check_tree(found)
    (asked,) = found.named("tandem.request")
    completions = found.named("tandem.completion")
    assert {attribute(span, "choice") for span in completions} == {0, 1, 2}
    assert {span.parent for span in completions} == {asked.id}
    # Each choice's streams lie below its own completion.
    for side in ("draft", "target"):
        assert {span.parent for span in found.named(f"tandem.{side}.stream")} == {span.id for span in completions}


async def test_whether_to_trace_is_the_callers_choice_then_the_orchestrators() -> None:
    async with traced() as running:
        await running.ask(make_request([1], speculation=policy("fixed"), max_tokens=8), ("traceparent", UNSAMPLED))
        assert (await finished(running)).spans == []
    # A share of 0 holds for the services behind it, too, whatever theirs is.
    async with traced(share=0.0) as running:
        await running.ask(make_request([1], speculation=policy("fixed"), max_tokens=8))
        assert (await finished(running)).spans == []
    async with traced(share=0.0, share_of_models=0.0) as running:
        await running.ask(make_request([1], speculation=policy("fixed"), max_tokens=8), ("traceparent", SAMPLED))
        assert {span.service for span in (await finished(running)).spans} == {
            "tandem-orchestrator", "tandem-draft", "tandem-target",
        }  # fmt: skip


@pytest.mark.parametrize("header", ["00-nonsense", f"00-{'0' * 32}-{PARENT}-01", "x" * 5000, ""])
async def test_a_trace_that_is_none_is_not_gone_on_with(header: str) -> None:
    async with traced(draft=False) as running:
        await running.ask(make_request([1], speculation=OFF, max_tokens=2), ("traceparent", header))
        found = await finished(running)
    check_tree(found)
    (asked,) = found.named("tandem.request")
    assert asked.parent == "" and asked.trace != "0" * 32


async def test_a_request_over_http_goes_on_with_its_callers_trace() -> None:
    async with traced() as running:
        server = HttpServer(make_app(running.services.completions))
        server.bind()
        await server.serve()
        async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as http:
            body = {"model": "tiny", "prompt": "Hi", "max_tokens": 10, "ignore_eos": True, "stream": True}
            answer = await http.post("/v1/completions", json=body, headers={"traceparent": SAMPLED})
            assert answer.status_code == 200, answer.text
        await server.stop()
        found = await finished(running)
    check_tree(found)
    (asked,) = found.named("tandem.request")
    assert (asked.trace, asked.parent) == (TRACE, PARENT)
    assert attribute(asked, "route") == "/v1/completions"
    assert attribute(asked, "request_id") == answer.headers["x-request-id"]
    assert {span.trace for span in found.spans} == {TRACE}


async def test_what_fails_says_so() -> None:
    async with traced(draft=False, target_patience_seconds=1.0) as running:
        call = running.services.stub.Complete(make_request([1], max_tokens=400))
        await call.read()
        running.services.target.grace_seconds = 0
        await running.services.target.drain()
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        found = await running.collected()
    for name in ("tandem.request", "tandem.completion", "tandem.generate"):
        (span,) = found.named(name)
        assert span.error == "target_unavailable"
    assert attribute(found.named("tandem.completion")[0], "outcome") == "target_unavailable"


async def test_no_attribute_holds_text() -> None:
    secret = "zebra crossing"
    async with traced(noise=0.0) as running:
        request = completion_pb2.CompleteRequest(
            text=secret, max_tokens=20, speculation=policy("fixed"), stop=["\x01never"], echo=True
        )
        text = ""
        async for response in running.services.stub.Complete(request, timeout=60.0):
            text += response.text
        found = await finished(running)
    values = [value for span in found.spans for value in span.attributes.values() if isinstance(value, str)]
    assert text.startswith(secret) and len(text) > len(secret)
    assert not any("zebra" in value or text[len(secret) :] in value for value in values)


async def test_a_receiver_that_is_not_there_holds_up_nobody() -> None:
    told = Telemetry(OtlpTracing("orchestrator", "127.0.0.1:9", 1.0))
    async with trio(tiny_llama(2), None, byte_tokenizer(64), telemetry=Telemetries(orchestrator=told)) as services:
        answer = await services.complete([1], max_tokens=5)
    assert len(answer.token_ids) == 5
    await told.tracing.close()  # returns, with what could not be sent


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    """But for the API, which FastAPI imports for itself."""
    code = (
        "import sys, orchestrator.__main__, draft_service.__main__, target_service.__main__\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_an_endpoint_without_the_packages_is_refused_in_one_line() -> None:
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'opentelemetry': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "sys.argv[1:] = ['--otlp-endpoint', '127.0.0.1:4317']\n"
        "import draft_service.__main__ as service; service.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "--otlp-endpoint (TANDEM_DRAFT_OTLP_ENDPOINT)" in line
    assert "pip install 'tandem-serving[tracing]'" in line


@pytest.mark.parametrize("value", ["collector", "ftp://collector:4317", "http://collector", "collector:0"])
def test_an_endpoint_that_is_none_is_refused_in_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.settings import OrchestratorSettings
    from tandem.settings import load_settings

    with pytest.raises(SystemExit):
        load_settings(OrchestratorSettings, ["--otlp-endpoint", value])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--otlp-endpoint (TANDEM_ORCHESTRATOR_OTLP_ENDPOINT)" in line and "HOST:PORT" in line
