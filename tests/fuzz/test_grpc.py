"""Random and mutated requests over gRPC: answered, or refused with a fair status; never INTERNAL, never a hang."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.v1 import completion_pb2
from tests.fuzz.messages import messages, mutated
from tests.fuzz.running import in_thread, resident_bytes
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import Trio, trio

#: In all; the tests take a share of them each. 10,000 takes some minutes.
EXAMPLES = int(os.environ.get("TANDEM_FUZZ_EXAMPLES", "600"))
TIMEOUT = 20.0
CONTEXT = 48
METHODS = {
    "Complete": completion_pb2.CompleteRequest,
    "CompleteOnce": completion_pb2.CompleteOnceRequest,
    "Tokenize": completion_pb2.TokenizeRequest,
    "Detokenize": completion_pb2.DetokenizeRequest,
    "GetModels": completion_pb2.GetModelsRequest,
    "GetLoad": completion_pb2.GetLoadRequest,
}
#: What a caller's request may be answered with. The target refuses sessions beyond its number.
FAIR = {"OK", "INVALID_ARGUMENT", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}{{ tools }}"

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.fixture(scope="module")
def services() -> Iterator[Trio]:
    models = (tiny_llama(5, vocabulary=257, context=CONTEXT), tiny_llama(5, vocabulary=257, noise=0.1, context=CONTEXT))
    with in_thread(trio(*models, byte_tokenizer(257, template=TEMPLATE, ends=(END,)))) as running:
        yield running


@pytest.fixture(scope="module")
def channel(services: Trio) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(services.orchestrator.address) as opened:
        yield opened


def call(channel: grpc.Channel, method: str, data: bytes) -> str:
    """The status that it ends with."""
    path = f"/tandem.v1.CompletionService/{method}"
    try:
        if method == "Complete":
            for _ in channel.unary_stream(path)(data, timeout=TIMEOUT):
                pass
        else:
            channel.unary_unary(path)(data, timeout=TIMEOUT)
    except grpc.RpcError as error:
        name = error.code().name
        assert name in FAIR, (method, name, error.details())
        return name
    return "OK"


def plausible(request: Any) -> Any:
    """The request with a prompt, so that more than its absence is looked at, and with few choices."""
    if isinstance(request, completion_pb2.CompleteOnceRequest):
        plausible(request.completion)
    elif isinstance(request, completion_pb2.CompleteRequest):
        if request.WhichOneof("prompt") is None:
            request.tokens.ids.extend([3, 4, 5])
        request.n = min(request.n, 3)
        if request.n == 0:
            request.ClearField("n")
    return request


@settings(relaxed, max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_random_messages_are_answered_or_refused(data: st.DataObject, channel: grpc.Channel) -> None:
    method = data.draw(st.sampled_from([*METHODS, "Complete", "Complete", "CompleteOnce"]))
    request: Message = plausible(data.draw(messages(METHODS[method])))
    call(channel, method, request.SerializeToString())


@settings(relaxed, max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_mutated_bytes_are_answered_or_refused(data: st.DataObject, channel: grpc.Channel) -> None:
    method = data.draw(st.sampled_from(list(METHODS)))
    call(channel, method, data.draw(mutated(METHODS[method])))


@settings(relaxed, max_examples=30)
@given(data=st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_message_are_the_callers_mistake(data: bytes, channel: grpc.Channel) -> None:
    try:
        completion_pb2.CompleteRequest.FromString(data)
    except Exception:
        assert call(channel, "Complete", data) == "INVALID_ARGUMENT"


def test_after_all_that_nothing_is_open_and_memory_stays_where_it_is(services: Trio, channel: grpc.Channel) -> None:
    """Runs last in this file."""
    requests = []
    collect = settings(relaxed, max_examples=100, database=None, derandomize=True)(
        given(request=messages(completion_pb2.CompleteRequest))(
            lambda request: requests.append(plausible(request).SerializeToString())
        )
    )
    collect()
    statuses: Counter[str] = Counter()
    sizes = []
    for _ in range(3):
        statuses.update(call(channel, "Complete", data) for data in requests)
        sizes.append(resident_bytes())
    assert len(statuses) > 1 and statuses["OK"] > 10, statuses
    assert sizes[-1] - sizes[1] < 16 << 20, [size >> 20 for size in sizes]
    for engine in (services.target_engine, services.draft_engine):
        assert engine is not None and engine.load().sequences == 0 and engine.load().cache_bytes == 0
