from __future__ import annotations

import pickle
import re
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tandem.rpc.channels import connect
from tandem.rpc.errors import CODES, UNSPECIFIED, TandemError
from tandem.v1 import target_pb2, target_pb2_grpc
from tandem.v1.errors_pb2 import ErrorReason
from tandem.v1.model_pb2 import ModelInfo

PREFIX = "ERROR_REASON_"
REASONS = [name.removeprefix(PREFIX) for name in ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED"]

DRAFT = ModelInfo(model_id="small", revision="main", tokenizer_fingerprint="ab" * 32, vocabulary_size=100)
TARGET = ModelInfo(model_id="large", tokenizer_fingerprint="cd" * 32, vocabulary_size=101)
EXAMPLES = {
    error.reason: error
    for error in (
        TandemError.invalid_field("sampling.top_p", "must be in (0, 1], not 1.5"),
        TandemError.prompt_too_long(2048, 2048, field="text"),
        TandemError.not_supported("sampling.seed", "not in this version"),
        TandemError.protocol_mismatch(2, 1),
        TandemError.tokenizer_mismatch(draft=DRAFT, target=TARGET),
        TandemError.prefix_mismatch("the block does not continue the sequence", expected=17, received=19),
        TandemError.unexpected_message("`open` was sent twice"),
        TandemError.target_unavailable("no target answers at 127.0.0.1:7001"),
        TandemError.draft_unavailable("no draft answers", retry_after=0.25),
        TandemError.overloaded("256 blocks wait", retry_after=2.5),
        TandemError.shutting_down(),
        TandemError.internal(),
        TandemError.out_of_memory("no room for 4096 tokens"),
        TandemError.not_finite(),
        TandemError.unauthenticated("an API key is needed"),
        TandemError.permission_denied("at most 16", field="max_tokens"),
        TandemError.rate_limit_exceeded("concurrent", 4, "4 are under way", retry_after=1.0),
        TandemError.deadline_exceeded(),
    )
}


def documented_codes() -> dict[str, str]:
    proto = Path(__file__).parents[2] / "protos/tandem/v1/errors.proto"
    entry = re.compile(r"  // ([A-Z_]+)\. (?:[^\n]*\n  //)*[^\n]*\n  ERROR_REASON_([A-Z_]+) = \d+;")
    return {reason: code for code, reason in entry.findall(proto.read_text())}


def test_every_reason_has_a_constructor_and_its_documented_code() -> None:
    documented = documented_codes()
    assert sorted(documented) == sorted(REASONS) == sorted(EXAMPLES) == sorted(CODES)
    assert {reason: error.code.name for reason, error in EXAMPLES.items()} == documented


async def raised_over_the_wire(serve, error: TandemError) -> grpc.aio.AioRpcError:
    async def handler(request, context):
        raise error

    served = await serve(GetTargetModel=handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.target.GetTargetModel(target_pb2.GetTargetModelRequest())
    return caught.value


@pytest.mark.parametrize("reason", REASONS)
async def test_every_error_survives_the_wire(serve, reason: str) -> None:
    sent = EXAMPLES[reason]
    received = TandemError.from_rpc_error(await raised_over_the_wire(serve, sent))
    assert vars(received) == vars(sent)


async def test_standard_details_are_attached(serve) -> None:
    error = await raised_over_the_wire(
        serve, TandemError.invalid_field("max_tokens", "must be at least 1, not 0")
    )
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.details[0].Unpack(info) and (info.domain, info.reason) == ("tandem", "INVALID_FIELD")
    assert status.details[1].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["max_tokens"]


@pytest.mark.parametrize(
    "reason", ["TARGET_UNAVAILABLE", "DRAFT_UNAVAILABLE", "OVERLOADED", "SHUTTING_DOWN", "RATE_LIMIT_EXCEEDED"]
)
def test_what_may_pass_says_when_to_retry(reason: str) -> None:
    assert EXAMPLES[reason].retry_after is not None


def test_a_mismatch_names_both_sides() -> None:
    error = EXAMPLES["TOKENIZER_MISMATCH"]
    assert "small" in error.message and "large" in error.message
    assert error.metadata["draft_tokenizer_fingerprint"] == DRAFT.tokenizer_fingerprint
    assert error.metadata["target_vocabulary_size"] == "101"


@pytest.mark.parametrize("filler", ["x", "é", "字", "\ud800", "\n"])
async def test_what_a_caller_sent_never_bursts_the_trailer(serve, filler: str) -> None:
    huge = TandemError(
        "INVALID_FIELD", filler * 50_000, field=filler * 50_000, metadata={"name": filler * 50_000}
    )
    received = TandemError.from_rpc_error(await raised_over_the_wire(serve, huge))
    assert (received.reason, received.code) == ("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT)
    assert 0 < len(received.message) <= 600 and received.message.endswith("…")


async def test_a_refused_connection_gets_the_reason_of_its_caller(serve) -> None:
    served = await serve()
    await served.server.drain()
    async with connect(served.server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await target_pb2_grpc.TargetServiceStub(channel).GetTargetModel(
                target_pb2.GetTargetModelRequest()
            )
    error = TandemError.from_rpc_error(caught.value, unavailable="TARGET_UNAVAILABLE")
    assert (error.reason, error.code) == ("TARGET_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert error.retry_after is not None
    assert TandemError.from_rpc_error(caught.value).reason == UNSPECIFIED


async def test_a_status_from_elsewhere_has_no_reason_and_stays_what_it_is(serve) -> None:
    served = await serve()
    unknown = served.channel.unary_unary("/tandem.v1.TargetService/NoSuchMethod")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"")
    error = TandemError.from_rpc_error(caught.value, unavailable="TARGET_UNAVAILABLE")
    assert (error.reason, error.code) == (UNSPECIFIED, grpc.StatusCode.UNIMPLEMENTED)
    assert list(error.to_status().trailing_metadata)  # and can be passed on
    again = await raised_over_the_wire(serve, error)
    assert (again.code(), again.details()) == (grpc.StatusCode.UNIMPLEMENTED, error.message)


def test_garbled_details_leave_the_bare_status() -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, details="broken")
    parsed = TandemError.from_rpc_error(error)
    assert (parsed.reason, parsed.code, parsed.message) == (UNSPECIFIED, grpc.StatusCode.INTERNAL, "broken")


def test_an_error_survives_a_pool_of_processes() -> None:
    error = TandemError.invalid_field("sampling.top_p", "must lie in (0, 1], not 2")
    error.retry_after, error.metadata = 1.5, {"a": "b"}
    back = pickle.loads(pickle.dumps(error))
    assert vars(back) == vars(error) and str(back) == str(error) and type(back) is type(error)
