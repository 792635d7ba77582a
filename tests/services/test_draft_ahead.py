"""Blocks that the draft makes before it is asked: they are those that it would have been asked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import torch

from draft_service.drafters.model import ModelDrafter
from draft_service.server import DraftServicer
from tandem.distributions import full_row_from_bytes
from tandem.inference.engine import Engine, EngineLimits
from tandem.rpc.channels import connect
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.rpc.server import Server
from tandem.v1 import block_pb2, draft_pb2, draft_pb2_grpc
from tandem.wire import model_info
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import serve_model

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
GREEDY, RATIO, BLOCK, COUPLED = 1, 2, 3, 4
RULES = {
    "greedy": {"verification": GREEDY},
    "greedy with rows": {"verification": GREEDY, "format": {"max_entries": 6, "mass": 0.9}},
    "penalties": {
        "verification": GREEDY,
        "sampling": {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
        "min_tokens": 9,
        "stop_token_ids": [63],
    },
    "coupled": {"verification": COUPLED, "sampling": {"temperature": 1.0}},
    "coupled, cut": {"verification": COUPLED, "sampling": {"temperature": 1.5, "top_k": 24}},
    "ratio": {"verification": RATIO, "sampling": {"temperature": 1.0}, "format": {"max_entries": 16}},
    "block": {"verification": BLOCK, "sampling": {"temperature": 1.0, "top_k": 20}, "format": {"max_entries": 16}},
}


@dataclass(slots=True)
class Talk:
    """One stream, and what it has sent ahead of its last round."""

    call: Any
    round: int = 0
    position: int = len(PROMPT)
    block: block_pb2.Block = field(default_factory=block_pb2.Block)
    branches: dict[tuple[int, int], draft_pb2.Branch] = field(default_factory=dict)
    bytes: int = 0

    async def tell(self, **kind: object) -> None:
        await self.call.write(draft_pb2.DraftRequest(**kind))

    async def read(self) -> draft_pb2.DraftResponse:
        message = await self.call.read()
        assert message is not grpc.aio.EOF
        if message.WhichOneof("kind") == "ahead" and message.ahead.round == self.round:
            self.bytes += message.ByteSize()
            for part in message.ahead.branches:
                self._grow(part)
        return message

    def _grow(self, part: draft_pb2.Branch) -> None:
        known = self.branches.setdefault((part.kept, part.token_id), draft_pb2.Branch())
        assert part.sent == len(known.block.token_ids) and not known.stop
        assert part.block.position == self.position + part.kept + 1 + part.sent
        if not part.sent:
            known.block.position = part.block.position
        for column in ("token_ids", "log_probabilities", "entropies", "distributions"):
            getattr(known.block, column).extend(getattr(part.block, column))
        known.stop = part.stop

    async def answer(self, kind: str) -> Any:
        while (message := await self.read()).WhichOneof("kind") == "ahead":
            pass
        return getattr(message, kind)

    async def settled(self, count: int) -> None:
        """Until so many branches have ended."""
        while sum(bool(branch.stop) for branch in self.branches.values()) < count:
            await self.read()

    def _continue(self, kept: int, follows: list[int]) -> dict[str, Any]:
        self.position += kept + len(follows)
        self.round += 1
        self.branches, self.bytes = {}, 0
        return {"position": self.position - len(follows), "kept": kept, "token_ids": follows}

    async def ask(self, kept: int, follows: list[int], *, limits: dict, **more: Any) -> draft_pb2.DraftedBlock:
        continuation = self._continue(kept, follows)
        await self.tell(round={"round": self.round, "continuation": continuation, "limits": limits, **more})
        answer = await self.answer("block")
        self.block = answer.block
        return answer

    async def take(self, kept: int, token: int, used: int, **more: Any) -> draft_pb2.Branch:
        branch = self.branches[kept, token]
        continuation = self._continue(kept, [token])
        message = {"round": self.round, "continuation": continuation, "used": used, **more}
        await self.tell(taken=message)
        self.block = cut(branch.block, used)
        return branch


def cut(block: block_pb2.Block, count: int) -> block_pb2.Block:
    other = block_pb2.Block(position=block.position)
    for column in ("token_ids", "log_probabilities", "entropies", "distributions"):
        getattr(other, column).extend(getattr(block, column)[:count])
    return other


def same(one: block_pb2.Block, other: block_pb2.Block) -> None:
    assert (one.position, list(one.token_ids)) == (other.position, list(other.token_ids))
    assert list(one.log_probabilities) == pytest.approx(list(other.log_probabilities), abs=1e-4)
    assert list(one.entropies) == pytest.approx(list(other.entropies), abs=1e-4)
    assert len(one.distributions) == len(other.distributions)
    for mine, its in zip(one.distributions, other.distributions, strict=True):
        assert mine.token_ids[:4] == its.token_ids[:4]
        assert mine.tail_mass == pytest.approx(its.tail_mass, abs=1e-3)


@dataclass(slots=True)
class Service:
    stub: draft_pb2_grpc.DraftServiceStub
    engine: Engine
    servicer: DraftServicer

    async def open(self, **fields: Any) -> Talk:
        talk = Talk(self.stub.Draft())
        opening = {"handshake": make_handshake(), "prompt_token_ids": PROMPT, "random_key": {"seed": 11}, **fields}
        await talk.tell(open=opening)
        await talk.answer("opened")
        return talk

    async def emptied(self) -> None:
        async with asyncio.timeout(30):
            while (load := self.engine.load()).cache_bytes or load.sequences or load.waiting:
                await asyncio.sleep(0.001)
            while self.servicer._pushers.streams:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(rows: int = 16, **options: Any) -> AsyncIterator[Service]:
    served = serve_model(tiny_llama(1, **options), byte_tokenizer(64), limits=EngineLimits(ahead_rows=rows))
    drafter = ModelDrafter(served.engine, model_info(served))
    await drafter.start()
    try:
        server = Server()
        servicer = DraftServicer(drafter)
        server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer, "tandem.v1.DraftService")
        async with server, connect(server.address) as channel, asyncio.timeout(60):
            yield Service(draft_pb2_grpc.DraftServiceStub(channel), served.engine, servicer)
    finally:
        await drafter.close()


AHEAD = {"max_branches": 6, "limits": {"max_tokens": 4}}


@pytest.mark.parametrize("rule", RULES)
async def test_blocks_that_come_ahead_are_those_that_would_have_been_asked_for(rule: str) -> None:
    """Random outcomes, many rounds: foreseen ones that are taken whole or cut, or asked for all the same with more or
    fewer tokens, and others."""
    chance, seen = random.Random(rule), set()
    async with serving() as service:
        ahead, plain = await service.open(**RULES[rule]), await service.open(**RULES[rule])
        limits = {"max_tokens": 3}
        block = (await ahead.ask(0, [], limits=limits, look_ahead=AHEAD)).block
        same(block, (await plain.ask(0, [], limits=limits)).block)
        for number in range(14):
            await ahead.settled(6)
            size = len(ahead.block.token_ids)
            what = ["taken", "cut", "asked", "more", "missed", "all kept"][number % 6]
            seen.add(what)
            if what == "missed":
                kept = chance.randrange(size + 1)
                token = next(t for t in range(64) if (kept, t) not in ahead.branches)
                limits = {"max_tokens": 3}
                block = (await ahead.ask(kept, [token], limits=limits, look_ahead=AHEAD)).block
                same(block, (await plain.ask(kept, [token], limits=limits)).block)
                continue
            keys = sorted(ahead.branches)
            whole = [key for key in keys if key[0] == size]
            kept, token = chance.choice(whole if what == "all kept" and whole else keys)
            if what in ("asked", "more"):
                limits = {"max_tokens": 2 if what == "asked" else 7}
                block = (await ahead.ask(kept, [token], limits=limits, look_ahead=AHEAD)).block
                same(block, (await plain.ask(kept, [token], limits=limits)).block)
            else:
                drafted = len(ahead.branches[kept, token].block.token_ids)
                used = chance.randrange(1, drafted) if what == "cut" and drafted > 1 else drafted
                branch = await ahead.take(kept, token, used, look_ahead=AHEAD)
                same(cut(branch.block, used), (await plain.ask(kept, [token], limits={"max_tokens": used})).block)
        assert len(seen) == 6
        load = await service.stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest())
        assert load.ahead_tokens > load.ahead_tokens_taken > 0
        ahead.call.cancel()
        plain.call.cancel()
        await service.emptied()


async def test_thresholds_end_blocks_ahead_as_they_end_asked_ones() -> None:
    async with serving() as service:
        ahead, plain = await service.open(verification=GREEDY), await service.open(verification=GREEDY)
        limits = {"max_tokens": 4, "max_entropy_before": 1.2}
        plan = AHEAD | {"limits": limits}
        await ahead.ask(0, [], limits=limits, look_ahead=plan)
        await plain.ask(0, [], limits=limits)
        stops = set()
        for _ in range(8):
            await ahead.settled(6)
            (kept, token), branch = max(ahead.branches.items(), key=lambda item: len(item[1].block.token_ids))
            used = len(branch.block.token_ids)
            await ahead.take(kept, token, used, look_ahead=plan)
            asked = await plain.ask(kept, [token], limits=limits)
            same(branch.block, asked.block)
            assert branch.stop == asked.stop
            stops.add(branch.stop)
        assert draft_pb2.DRAFT_STOP_ENTROPY_BEFORE in stops or len(stops) == 1


@pytest.mark.parametrize("penalty", [1.0, 1.4])
async def test_full_rows_of_a_block_that_was_taken_can_be_asked_for(penalty: float) -> None:
    form = {"verification": GREEDY, "format": {"max_entries": 6, "mass": 0.9}}
    form["sampling"] = {"repetition_penalty": penalty}
    async with serving() as service:
        ahead, plain = await service.open(**form), await service.open(**form)
        await ahead.ask(0, [], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await plain.ask(0, [], limits={"max_tokens": 3})
        await ahead.settled(6)
        kept, token = sorted(ahead.branches)[0]
        await ahead.take(kept, token, 3, look_ahead=AHEAD)
        await plain.ask(kept, [token], limits={"max_tokens": 3})
        for indices in ([0, 2], [1]):
            found = []
            for talk in (ahead, plain):
                await talk.tell(rows={"round": talk.round, "indices": indices})
                found.append((await talk.answer("rows")).rows)
            assert [row.index for row in found[0]] == [row.index for row in found[1]] == indices
            for mine, its in zip(*found, strict=True):
                mine, its = (full_row_from_bytes(row.log_probabilities, 64) for row in (mine, its))
                assert torch.allclose(mine, its, atol=0.01)
        # And the blocks that follow are drafted from the same cache.
        await ahead.settled(6)
        (kept, token), branch = sorted(ahead.branches.items())[0]
        same(cut(branch.block, 3), (await plain.ask(kept, [token], limits={"max_tokens": 3})).block)


async def test_a_block_that_nobody_sent_cannot_be_taken() -> None:
    async with serving() as service:
        for wrong in ("token", "round before", "nothing ahead"):
            talk = await service.open(verification=GREEDY)
            plan = {} if wrong == "nothing ahead" else {"look_ahead": AHEAD}
            await talk.ask(0, [], limits={"max_tokens": 3}, **plan)
            token = 1
            if plan:
                await talk.settled(6)
                kept, token = sorted(talk.branches)[0]
                if wrong == "token":
                    token = next(t for t in range(64) if (0, t) not in talk.branches)
                else:
                    await talk.ask(0, [token], limits={"max_tokens": 3})  # without more ahead
            message = {"round": 9, "continuation": {"position": talk.position, "kept": 0, "token_ids": [token]}}
            await talk.tell(taken=message)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await talk.call.read() is not grpc.aio.EOF:
                    pass
                await talk.call
            assert TandemError.from_rpc_error(caught.value).reason == "PREFIX_MISMATCH"
        await service.emptied()


async def test_more_than_was_sent_cannot_be_taken() -> None:
    async with serving() as service:
        talk = await service.open(verification=GREEDY)
        await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await talk.settled(6)
        kept, token = sorted(talk.branches)[0]
        assert (await refusal(talk, taken=message_of(talk, kept, token, used=5))).field == "taken.used"


def message_of(talk: Talk, kept: int, token: int, **fields: Any) -> dict[str, Any]:
    continuation = {"position": talk.position + kept, "kept": kept, "token_ids": [token]}
    return {"round": talk.round + 1, "continuation": continuation, **fields}


async def refusal(talk: Talk, **kind: Any) -> TandemError:
    await talk.tell(**kind)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await talk.call.read() is not grpc.aio.EOF:
            pass
    return TandemError.from_rpc_error(caught.value)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"max_branches": 65}, "max_branches"),
        ({"limits": {"max_tokens": 65}}, "limits.max_tokens"),
        ({"max_bytes": (16 << 20) + 1}, "max_bytes"),
        ({"hit_seconds": -1.0}, "hit_seconds"),
        ({"hit_seconds": float("nan")}, "hit_seconds"),
        ({"correction_shares": [0.1] * 17}, "correction_shares"),
        ({"correction_shares": [0.5, -0.1]}, "correction_shares[1]"),
        ({"correction_shares": [0.5, float("nan")]}, "correction_shares[1]"),
        ({"correction_shares": [0.7, 0.7]}, "correction_shares"),
        ({"acceptance_curve": {"entropies": [1.0, 0.5], "acceptances": [1, 1]}}, "acceptance_curve.entropies"),
        ({"acceptance_curve": {"acceptances": [1]}}, "acceptance_curve"),
    ],
)
async def test_plans_that_mean_nothing_are_refused_by_field(plan: dict[str, Any], field: str) -> None:
    async with serving() as service:
        talk = await service.open(verification=GREEDY)
        asked = {"round": 1, "continuation": {"position": len(PROMPT)}, "limits": {"max_tokens": 3}, "look_ahead": plan}
        error = await refusal(talk, round=asked)
        assert (error.reason, error.field) == ("INVALID_FIELD", f"round.look_ahead.{field}")


async def test_what_comes_ahead_is_bounded_in_branches_tokens_and_bytes() -> None:
    async with serving() as service:
        talk = await service.open(**RULES["ratio"])
        await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead={"max_branches": 5, "limits": {"max_tokens": 7}})
        await talk.settled(5)
        assert len(talk.branches) == 5
        assert {len(branch.block.token_ids) for branch in talk.branches.values()} == {7}
        whole = talk.bytes
        most = whole // 3
        plan = {"max_branches": 5, "limits": {"max_tokens": 7}, "max_bytes": most}
        await talk.ask(0, [1], limits={"max_tokens": 3}, look_ahead=plan)
        while talk.bytes < most // 2:
            await talk.read()
        # The answer to the next round comes behind all that was sent of this one.
        sent = talk.bytes
        await talk.tell(rows={"round": 1, "indices": []})
        with pytest.raises(grpc.aio.AioRpcError):
            while (message := await talk.call.read()) is not grpc.aio.EOF:
                sent += message.ByteSize()
        assert sent <= most


@pytest.mark.parametrize("how", ["cancel", "half-close", "asked again"])
async def test_a_stream_that_ends_in_the_middle_leaves_nothing(how: str) -> None:
    async with serving(context=4096) as service:
        for branches in (1, 6, 40):
            talk = await service.open(verification=GREEDY)
            plan = {"max_branches": branches, "limits": {"max_tokens": 64}}
            await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=plan)
            while not talk.branches:
                await talk.read()
            if how == "asked again":
                await talk.ask(1, [5], limits={"max_tokens": 3}, look_ahead=plan)
            if how == "half-close":
                await talk.call.done_writing()
                while await talk.call.read() is not grpc.aio.EOF:
                    pass
            else:
                talk.call.cancel()
            await service.emptied()


async def test_rows_go_to_whom_a_hit_saves_most() -> None:
    plan = {"max_branches": 6, "limits": {"max_tokens": 40}}
    async with serving(rows=6, context=4096) as service:
        little, much = await service.open(verification=GREEDY), await service.open(verification=GREEDY)
        await little.ask(0, [], limits={"max_tokens": 3}, look_ahead=plan | {"hit_seconds": 1e-9})
        await much.ask(0, [], limits={"max_tokens": 3}, look_ahead=plan | {"hit_seconds": 1e3})
        await much.settled(6)
        await little.tell(rows={"round": 0, "indices": []})  # refused, behind all that was sent
        with pytest.raises(grpc.aio.AioRpcError):
            while await little.read():
                pass
        drafted = [sum(len(branch.block.token_ids) for branch in talk.branches.values()) for talk in (little, much)]
        assert drafted[0] < drafted[1] / 2


async def test_many_who_look_ahead_do_not_begin_more_than_steps_have_room_for() -> None:
    plan = {"max_branches": 16, "limits": {"max_tokens": 64}}
    async with serving(rows=11, context=4096) as service:  # four for what nobody asked for
        talks = [await service.open(verification=GREEDY) for _ in range(8)]
        for talk in talks:
            await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=plan)
        most = 0
        for _ in range(20):
            works = [job for job in list(service.engine._jobs) if job.worth is not None]
            most = max(most, sum(not work.sequence.closed for work in works))
            await asyncio.sleep(0.005)
        assert 0 < most <= 22  # of 128 outcomes


async def test_nothing_is_drafted_ahead_where_there_are_no_rows_for_it() -> None:
    async with serving(rows=0) as service:
        talk = await service.open(verification=GREEDY)
        await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await talk.ask(0, [5], limits={"max_tokens": 3}, look_ahead=AHEAD)
        load = await service.stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest())
        assert load.ahead_tokens == 0 and not talk.branches


async def test_what_was_drafted_ahead_is_counted_as_taken_once_it_is_part_of_a_block() -> None:
    """Of a block that is taken as of one that is asked for, and of nothing else."""
    async with serving() as service:

        async def taken() -> int:
            return (await service.stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest())).ahead_tokens_taken

        talk = await service.open(verification=GREEDY)
        await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await talk.settled(6)
        assert await taken() == 0
        await talk.ask(*outcome(talk), limits={"max_tokens": 2}, look_ahead=AHEAD)
        assert await taken() == 2
        await talk.settled(6)
        kept, (token,) = outcome(talk)
        await talk.take(kept, token, 3, look_ahead=AHEAD)
        await talk.settled(6)  # the service has heard of it
        assert await taken() == 5
        foreseen = {token for _, token in talk.branches}
        await talk.ask(0, [next(token for token in range(64) if token not in foreseen)], limits={"max_tokens": 3})
        assert await taken() == 5


def outcome(talk: Talk) -> tuple[int, list[int]]:
    """One that was foreseen."""
    kept, token = sorted(talk.branches)[0]
    return kept, [token]


async def test_a_late_message_of_an_older_round_is_dropped_and_counted() -> None:
    async with serving() as service:
        talk = await service.open(verification=GREEDY)
        await talk.ask(0, [], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await talk.settled(6)
        kept, token = sorted(talk.branches)[0]
        late = message_of(talk, kept, token, used=2)
        await talk.ask(0, [token], limits={"max_tokens": 3}, look_ahead=AHEAD)
        await talk.tell(taken=late | {"round": 1})
        await talk.settled(6)
        await talk.ask(0, [token], limits={"max_tokens": 3})
        assert (await service.stub.GetDraftLoad(draft_pb2.GetDraftLoadRequest())).stale_messages == 1
