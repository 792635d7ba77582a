"""The target's features as they travel: what a target gives, and what each side refuses by its field."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tandem.rpc.channels import connect
from tandem.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from target_service.server import TargetServicer
from tests.services.test_streams import OPEN, Talk
from tests.support.drafters import make
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import make_request, policy, trio

TOKENIZER = byte_tokenizer(64)
PROMPT = [5, 6, 7, 5, 9, 5, 6, 7, 5, 9, 1, 2]


def states(tokens: Sequence[int]) -> torch.Tensor:
    """Of the target by transformers alone, behind its norm [T, H]."""
    with torch.inference_mode():
        return tiny_llama(2).model.get_decoder()(torch.tensor([tokens])).last_hidden_state[0]


async def test_a_target_gives_its_states_before_each_position_of_the_block() -> None:
    """Also alone, and the prompt's with the first answer. Nothing where nobody asks."""
    candidates = [7, 8, 9]
    async with trio(tiny_llama(2), None, TOKENIZER) as services, connect(services.target.address) as channel:
        stream = Talk(target_pb2_grpc.TargetServiceStub(channel).Verify(), target_pb2.VerifyRequest)
        model = (await stream.ask(open=OPEN)).opened.model
        assert (model.features.width, model.features.family) == (64, "llama")
        first = {"position": 3, "kept": 0, "token_ids": ()}
        block = {"position": 3, "token_ids": candidates}
        asked = {"round": 1, "continuation": first, "block": block, "features": 3}
        verified = (await stream.ask(round=asked)).verified
        text = [*OPEN["prompt_token_ids"], *candidates]
        check_features(verified.features, text, 6)
        kept, follows = 1, [11]
        text = [*text[:4], *follows]
        goes_on = {"position": 4, "kept": kept, "token_ids": follows}
        block = {"position": 5, "token_ids": [12]}
        asked = {"round": 2, "continuation": goes_on, "block": block, "features": 9}
        verified = (await stream.ask(round=asked)).verified
        check_features(verified.features, [*text, 12], 2)
        goes_on = {"position": 5, "kept": 0, "token_ids": [13]}
        text.append(13)
        await stream.tell(generate={"round": 3, "continuation": goes_on, "max_tokens": 2, "features": 9})
        for _ in range(2):
            token = (await stream._call.read()).generated
            check_features(token.features, text, 1)
            text.append(token.token_id)
        goes_on = {"position": 8, "kept": 0, "token_ids": ()}
        verified = (await stream.ask(round={"round": 4, "continuation": goes_on, "block": {"position": 8}})).verified
        assert verified.features == b""


async def test_of_a_tree_each_candidate_has_the_state_of_its_path() -> None:
    async with trio(tiny_llama(2), None, TOKENIZER) as services, connect(services.target.address) as channel:
        stream = Talk(target_pb2_grpc.TargetServiceStub(channel).Verify(), target_pb2.VerifyRequest)
        await stream.ask(open=OPEN)
        block = {"position": 3, "token_ids": [7, 8, 9], "parents": [-1, -1, 0]}
        asked = {"round": 1, "continuation": {"position": 3}, "block": block, "features": 1}
        verified = (await stream.ask(round=asked)).verified
    text = OPEN["prompt_token_ids"]
    rows = [verified.features[at : at + 128] for at in range(0, 4 * 128, 128)]
    for row, path in zip(rows, ([], [7], [8], [7, 9]), strict=True):
        check_features(row, [*text, *path], 1)


async def test_a_text_that_had_to_give_way_has_the_features_of_its_tokens_once() -> None:
    """It is run again, but they are not asked for again."""
    async with trio(tiny_llama(2), None, TOKENIZER, target_cache_bytes=9 * 16 * 2 * 2 * 2 * 16 * 4) as services:
        async with connect(services.target.address) as channel:

            async def alone(number: int) -> list[int]:
                stream = Talk(target_pb2_grpc.TargetServiceStub(channel).Verify(), target_pb2.VerifyRequest)
                await stream.ask(open=OPEN | {"prompt_token_ids": [number, 2, 3]})
                asked = {"round": 1, "continuation": {"position": 3}, "max_tokens": 70, "features": 2}
                await stream.tell(generate=asked)
                return [len((await stream._call.read()).generated.features) for _ in range(70)]

            found = await asyncio.gather(*(alone(number) for number in range(3)))
        assert services.target_engine.load().preemptions > 0
    assert found == [[2 * 128, *[128] * 69]] * 3


def check_features(data: bytes, tokens: Sequence[int], count: int) -> None:
    found = torch.frombuffer(bytearray(data), dtype=torch.float16).view(-1, 64)
    torch.testing.assert_close(found.float(), states(tokens)[-count:], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["round", "generate"])
async def test_what_a_target_cannot_give_is_refused(kind: str) -> None:
    def without(engine: Any, info: Any, *rest: Any) -> TargetServicer:
        info.ClearField("features")
        return TargetServicer(engine, info, *rest)

    asked = {"round": 1, "continuation": {"position": 3}} | ({"max_tokens": 1} if kind == "generate" else {})
    for serve, count, reason in ((without, 1, "NOT_SUPPORTED"), (TargetServicer, 257, "INVALID_FIELD")):
        async with trio(tiny_llama(2), None, TOKENIZER, serve_target=serve) as services:
            async with connect(services.target.address) as channel:
                stream = Talk(target_pb2_grpc.TargetServiceStub(channel).Verify(), target_pb2.VerifyRequest)
                await stream.ask(open=OPEN)
                error = await stream.refusal(**{kind: asked | {"features": count}})
        assert (error.reason, error.field) == (reason, f"{kind}.features")


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("features", bytes(127), "127 bytes, which are no features of 64 float16 each"),
        ("features", bytes(128 * 257), "features of 257 positions; at most 256"),
        ("features", bytes(128 * 4), "4 positions for 3 tokens"),
        ("features", bytes(126) + b"\x00\x7e", "not finite"),
        ("model", bytes(128), "nothing that this drafter asks for"),
    ],
    ids=["cut off", "too many", "more than the text has tokens", "no number", "not asked for"],
)
async def test_features_that_cannot_be_are_refused_by_the_draft(name: str, data: bytes, told: str) -> None:
    async with trio(tiny_llama(2), make(name, tiny_llama(2), TOKENIZER), TOKENIZER) as services:
        assert services.draft is not None
        async with connect(services.draft.address) as channel:
            stream = Talk(draft_pb2_grpc.DraftServiceStub(channel).Draft(), draft_pb2.DraftRequest)
            await stream.ask(open=OPEN)
            continuation = {"position": 3, "target_features": data}
            error = await stream.refusal(
                round={"round": 1, "continuation": continuation, "limits": {"max_tokens": 3}}
            )
    assert (error.reason, error.field) == ("INVALID_FIELD", "round.continuation.target_features")
    assert told in error.message



async def test_with_a_target_of_other_features_it_is_refused_and_says_why() -> None:
    """Of another width, and of another family."""
    told = []
    for width, family in ((96, "llama"), (64, "gemma")):
        drafter = make("features", tiny_llama(2), TOKENIZER)
        drafter.info.fed_with.features.width, drafter.info.fed_with.features.family = width, family
        async with trio(tiny_llama(2), drafter, TOKENIZER) as services:
            request = make_request(PROMPT, speculation=policy("fixed"), max_tokens=5)
            told.append(await services.refusal(request))
    for error, needs in zip(told, ("96 numbers of a llama", "64 numbers of a gemma"), strict=True):
        assert (error.reason, error.field) == ("NOT_SUPPORTED", "features")
        assert f"tiny-head does not fit: it is fed with features of {needs}" in error.message
        assert "those of target tiny are of 64 of a llama" in error.message
