"""Lines of the log: JSON that any reader takes, the request that they concern, and no word of what it said."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging
import subprocess
import sys
import warnings
from collections import Counter
from typing import Any

import grpc
import httpx2
import pytest

from orchestrator.gateway.app import make_app
from orchestrator.gateway.server import HttpServer
from tandem.log import configure_logging
from tandem.rpc.channels import connect
from tandem.telemetry import fields
from tandem.telemetry.context import bind_request, outgoing, receive
from tandem.v1 import completion_pb2, target_pb2, target_pb2_grpc
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import OFF, make_request, policy, trio

TOKENIZER = byte_tokenizer(129)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line, an object each."""
    return [json.loads(line, parse_constant=_refuse) for line in stream.getvalue().splitlines()]


def of_requests(stream: io.StringIO) -> list[dict[str, Any]]:
    """Those that replicas have nothing to do with: what becomes of these is nobody's request."""
    return [line for line in lines(stream) if not line["logger"].startswith("orchestrator.replicas")]


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def tiny_pair(noise: float = 0.1, context: int = 512):
    target = tiny_llama(2, vocabulary=129, context=context)
    return target, tiny_llama(2, vocabulary=129, context=context, noise=noise)


# The format.


def test_a_line_is_one_object_whatever_it_says(stream: io.StringIO) -> None:
    configure_logging("draft", "info", "json", stream=stream)
    log = logging.getLogger("tandem.rpc.server")
    log.info('two\nlines, a "quote", \u2028 and %s', b"\xff", extra={"number": 3, "thing": object()})
    try:
        raise ValueError("wrong\nhere")
    except ValueError:
        log.exception("failed")
    logging.getLogger("uvicorn.error").warning("of a library", extra={"color_message": "\x1b[1mof\x1b[0m"})
    logging.getLogger("grpc.aio").error("of another")
    warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    first, second, third, fourth, fifth = lines(stream)
    assert first["event"].startswith("two\nlines") and first["number"] == 3 and "object" in first["thing"]
    assert first["level"] == "info" and first["service"] == "draft" and first["logger"] == "tandem.rpc.server"
    assert first["timestamp"].endswith("+00:00")
    assert "ValueError: wrong\nhere" in second["exception"] and "Traceback" in second["exception"]
    assert set(third) == {"timestamp", "level", "service", "logger", "event"} and fourth["logger"] == "grpc.aio"
    assert "deprecated" in fifth["event"] and fifth["level"] == "warning"
    assert {key for line in (second, third, fourth) for key in line} <= set(fields.EVERY_LINE)


def test_a_line_for_people_has_fields_behind_its_message(stream: io.StringIO) -> None:
    configure_logging("target", "info", stream=stream)

    def work() -> None:
        bind_request("mine")
        logging.getLogger("tandem").info("done\nso", extra={"tokens": 3})
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("tandem").exception("failed")

    contextvars.copy_context().run(work)
    first, second, *trace = stream.getvalue().splitlines()
    assert first.split()[2:] == ["target", "INFO", "done\\nso", "request_id=mine", "tokens=3"]
    assert second.endswith("failed request_id=mine") and trace[-1] == "ValueError: wrong"


@pytest.mark.parametrize("name", ["", "a" * 129, "a\nb", "é"])
async def test_a_name_that_is_none_is_not_passed_on(name: str) -> None:
    async def named() -> tuple[tuple[str, str], ...]:
        receive([("x-request-id", name), ("traceparent", "\x7f"), ("other", "x")], names_request=True)
        return outgoing()

    assert await asyncio.create_task(named()) == ()


async def test_only_services_of_tandem_name_requests() -> None:
    async def named(trusted: bool) -> tuple[tuple[str, str], ...]:
        receive([("x-request-id", "mine"), ("traceparent", "00-1"), ("tracestate", "a=b")], names_request=trusted)
        return outgoing()

    traced = (("traceparent", "00-1"), ("tracestate", "a=b"))
    assert await asyncio.create_task(named(True)) == (("x-request-id", "mine"), *traced)
    assert await asyncio.create_task(named(False)) == traced


NATIVE = """
import asyncio, os, sys, warnings, grpc
from tandem.log import configure_logging
configure_logging("draft", "info", "json")
os.write(2, b"W1122 03:39:04.247720    2757 some.cc:83] 100% of it\\nof another kind \\xff\\n")
async def take():
    try: grpc.aio.server().add_insecure_port("203.0.113.7:1")
    except RuntimeError: pass
asyncio.run(take())
warnings.warn("of Python")
print("of Python, too", file=sys.stderr)
os.write(2, b"the last words")
"""


def test_what_native_code_writes_is_a_line_as_others() -> None:
    done = subprocess.run([sys.executable, "-c", NATIVE], capture_output=True, text=True, timeout=60, check=True)
    *told, plain = sorted(done.stderr.splitlines(), key=lambda line: line == "of Python, too")
    found = {line["event"]: line["level"] for line in map(json.loads, told)}
    assert plain == "of Python, too"  # what a service prints itself, as a flag that is wrong
    assert found.pop("some.cc:83] 100% of it") == "warning" and found.pop("of another kind \\xff") == "warning"
    assert found.pop("the last words") == "warning"
    assert sorted(found.values()) == ["error", "warning"]
    assert [event for event, level in found.items() if level == "error" and "Failed to add port" in event]


# Requests.


async def test_every_line_of_a_request_names_it_on_all_services(stream: io.StringIO) -> None:
    configure_logging("all", "debug", "json", stream=stream)
    names = [f"request-{number}" for number in range(6)]
    async with trio(*tiny_pair(), TOKENIZER) as services:
        await asyncio.gather(
            *(services.complete([1, 2], policy=policy("fixed"), max_tokens=20, request_id=name) for name in names)
        )
        async with asyncio.timeout(20):
            while sum("a session ended" in line for line in stream.getvalue().splitlines()) < 2 * len(names):
                await asyncio.sleep(0.01)
    found = [line for line in of_requests(stream) if line["logger"].startswith(("orchestrator", "tandem.telemetry"))]
    counts = Counter((line["event"], line.get("request_id")) for line in found)
    # One on the orchestrator, and one on draft and target each.
    assert counts == Counter({("completed", name): 1 for name in names} | {("a session ended", n): 2 for n in names})
    for line in found:
        own = fields.COMPLETION if line["event"] == "completed" else fields.SESSION
        assert set(line) <= {*fields.EVERY_LINE, *own}, line


async def test_a_completions_line_says_what_it_reports(stream: io.StringIO) -> None:
    configure_logging("orchestrator", "info", "json", stream=stream)
    async with trio(*tiny_pair(), TOKENIZER) as services:
        report = (await services.complete([1, 2], policy=policy("adasd", "exact"), max_tokens=20)).finish
        await services.complete([3], policy=OFF, max_tokens=40, stop=["".join(map(chr, range(32, 33)))])
    spoken, alone = [line for line in lines(stream) if line["event"] == "completed"]
    assert spoken["request_id"].startswith("cmpl-") and spoken["request_id"] != alone["request_id"]
    assert (spoken["outcome"], spoken["tokens"], spoken["prompt_tokens"]) == ("length", 20, 2)
    assert (spoken["stop_rule"], spoken["accept_rule"], spoken["choice"]) == ("adasd", "exact", 0)
    assert spoken["acceptance_rate"] == pytest.approx(report.speculation.draft_acceptance_rate, abs=1e-3)
    assert spoken["acceptance_length"] == pytest.approx(report.speculation.mean_acceptance_length, abs=1e-3)
    assert 0 < spoken["seconds"] < 60 and "trace_id" not in spoken and "prompt" not in spoken
    assert (alone["stop_rule"], alone["acceptance_length"], alone["acceptance_rate"]) == ("off", 1.0, 0.0)
    assert alone["outcome"] in ("stop", "length")


async def test_what_ends_early_has_its_line_too(stream: io.StringIO) -> None:
    configure_logging("orchestrator", "info", "json", stream=stream)
    async with trio(*tiny_pair(context=4096), TOKENIZER, target_patience_seconds=1.0) as services:
        call = services.stub.Complete(make_request([1], max_tokens=4000, request_id="left"))
        await call.read()
        call.cancel()
        async with asyncio.timeout(20):
            while '"cancelled"' not in stream.getvalue():
                await asyncio.sleep(0.01)
        call = services.stub.Complete(make_request([1], max_tokens=4000, request_id="lost"))
        await call.read()
        services.target.grace_seconds = 0
        await services.target.drain()
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    of = {name: [line for line in of_requests(stream) if line.get("request_id") == name] for name in ("left", "lost")}
    assert [(line["event"], line["outcome"]) for line in of["left"]] == [("cancelled", "cancelled")]
    assert of["left"][0]["tokens"] > 0
    warned, ended = of["lost"]
    assert warned["level"] == "warning" and "a completion failed" in warned["event"]
    assert (ended["event"], ended["outcome"], ended["level"]) == ("failed", "target_unavailable", "info")


async def test_a_refused_session_says_why_and_not_what(stream: io.StringIO) -> None:
    configure_logging("target", "info", "json", stream=stream)
    async with trio(tiny_pair()[0], None, TOKENIZER) as services:
        async with connect(services.target.address) as channel:
            stub = target_pb2_grpc.TargetServiceStub(channel)
            stream_of = stub.Verify(metadata=(("x-request-id", "mine"),))
            opening = target_pb2.VerifyOpen(handshake={"protocol_version": 1}, prompt_token_ids=[4711])
            await stream_of.write(target_pb2.VerifyRequest(open=opening))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream_of.read()
    assert "4711" in str(caught.value.details())
    (line,) = [line for line in lines(stream) if line["event"] == "refused a session"]
    assert (line["request_id"], line["reason"]) == ("mine", "invalid_field")
    assert line["field"].startswith("open.prompt_token_ids") and "4711" not in json.dumps(line)


async def test_requests_over_http_are_named_in_their_lines(stream: io.StringIO) -> None:
    configure_logging("orchestrator", "info", "json", stream=stream)
    async with trio(*tiny_pair(), TOKENIZER) as services:
        server = HttpServer(make_app(services.completions))
        server.bind()
        await server.serve()
        async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as http:
            body = {"model": "tiny", "prompt": ["Hi", "Ho"], "max_tokens": 5, "ignore_eos": True, "request_id": "both"}
            assert (await http.post("/v1/completions", json=body)).status_code == 200
            asked = {"text": "Hi", "max_tokens": 5, "request_id": "native", "return_prompt_token_ids": True}
            assert (await http.post("/tandem/v1/complete", json=asked)).status_code == 200
        await server.stop()
    named = [line["request_id"] for line in lines(stream) if line["event"] == "completed"]
    assert sorted(named) == ["both-0", "both-1", "native"]


# What was said.


@pytest.mark.parametrize("asked", [False, True])
async def test_no_line_holds_text_unless_that_is_asked_for(asked: bool, stream: io.StringIO) -> None:
    configure_logging("orchestrator", "debug", "json", stream=stream)
    secret = "zebra crossing"
    request = completion_pb2.CompleteRequest(text=secret, max_tokens=12, speculation=policy("fixed"), stop=["zebra"])
    async with trio(*tiny_pair(), TOKENIZER, log_prompts=asked) as services:
        answer = await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))
        refused = completion_pb2.CompleteRequest(text=secret, max_tokens=12, sampling={"top_p": 7})
        assert (await services.refusal(refused)).reason == "INVALID_FIELD"
    holding = [line for line in lines(stream) if "zebra" in json.dumps(line)]
    assert [line.get("prompt") for line in holding] == ([secret] if asked else [])
    assert len(answer.text) > 3 and answer.text not in stream.getvalue()
