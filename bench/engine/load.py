"""Mixed load on a target service: prompts of many lengths, verification and generation, sessions cut off."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress

import grpc

from tandem.v1 import block_pb2, model_pb2, sampling_pb2, target_pb2, target_pb2_grpc

_CLIENTS = 4
_LONGEST_PROMPT = 800
_PREFIXES, _PREFIX_TOKENS = 4, 200
_MOST_ROUNDS = 8
_LONGEST_BLOCK = 8
_MOST_GENERATED = 16
_CUT_OFF_WITHIN_SECONDS = 2.0
_PROTOCOL = 1


class Load:
    """Clients that open sessions one after the other. counts: what was done, by kind."""

    def __init__(
        self, stub: target_pb2_grpc.TargetServiceStub, model: model_pb2.ModelInfo, source: random.Random
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._stub = stub
        self._source = source
        self._vocabulary = model.vocabulary_size
        # Room for what comes after the prompt.
        self._longest = min(_LONGEST_PROMPT, model.context_length - _MOST_ROUNDS * (_MOST_GENERATED + 1))
        self._prefixes = [self._tokens(min(_PREFIX_TOKENS, self._longest // 2)) for _ in range(_PREFIXES)]

    async def run(self, seconds: float) -> None:
        """Raises what the first session that failed did so with."""
        until = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(_CLIENTS):
                    clients.create_task(self._client(until))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    def account(self) -> str:
        """As `12 sessions, 5 cancelled`."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items(), reverse=True))

    async def _client(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            cut_off = self._source.random() < 0.3
            limit = self._source.uniform(0, _CUT_OFF_WITHIN_SECONDS) if cut_off else left
            call = self._stub.Verify()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(limit, left)):
                        await _Session(self, call, self._source).run()
                        self.counts["sessions"] += 1
                        continue
                self.counts["cancelled"] += 1
            finally:
                call.cancel()  # a session that came to its end has nothing left to cancel

    def _prompt(self) -> list[int]:
        length = self._source.randint(1, self._longest)
        prefix = self._source.choice(self._prefixes) if self._source.random() < 0.5 else []
        return prefix[: length - 1] + self._tokens(length - len(prefix[: length - 1]))

    def _tokens(self, count: int) -> list[int]:
        return [self._source.randrange(self._vocabulary) for _ in range(count)]


class _Session:
    """One stream."""

    def __init__(self, load: Load, call: grpc.aio.StreamStreamCall, source: random.Random) -> None:
        self._load = load
        self._call = call
        self._source = source
        self._position = 0
        self._kept = 0
        self._follows: list[int] = []

    async def run(self) -> None:
        prompt = self._load._prompt()
        self._position = len(prompt)
        await self._ask(
            open=target_pb2.VerifyOpen(
                handshake=model_pb2.Handshake(protocol_version=_PROTOCOL),
                prompt_token_ids=prompt,
                sampling=sampling_pb2.SamplingParams(temperature=0),
                verification=sampling_pb2.VERIFICATION_RULE_GREEDY,
            )
        )
        for number in range(1, self._source.randint(1, _MOST_ROUNDS) + 1):
            await (self._verify(number) if self._source.random() < 0.7 else self._generate(number))
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF

    async def _verify(self, number: int) -> None:
        """Random candidates: nearly all are rejected, which cuts the cache; the target's token follows."""
        continuation, position = self._continuation()
        candidates = self._load._tokens(self._source.randint(0, _LONGEST_BLOCK))
        block = block_pb2.Block(position=position, token_ids=candidates)
        answer = await self._ask(round=target_pb2.VerifyRound(round=number, continuation=continuation, block=block))
        kept = next((at for at, h in enumerate(answer.verified.acceptance_probabilities) if h < 1), len(candidates))
        self._position, self._kept = position + kept, kept
        self._follows = [answer.verified.target_token_ids[kept]]
        self._load.counts["rounds"] += 1

    async def _generate(self, number: int) -> None:
        continuation, position = self._continuation()
        generate = target_pb2.Generate(
            round=number, continuation=continuation, max_tokens=self._source.randint(1, _MOST_GENERATED)
        )
        answer = await self._ask(generate=generate)
        while not answer.generated.last:
            answer = await self._read()
        self._position, self._kept, self._follows = answer.generated.position + 1, 0, []
        self._load.counts["generations"] += 1

    def _continuation(self) -> tuple[block_pb2.Continuation, int]:
        """What became of the last block, and the position behind it."""
        continuation = block_pb2.Continuation(position=self._position, kept=self._kept, token_ids=self._follows)
        return continuation, self._position + len(self._follows)

    async def _ask(self, **message: object) -> target_pb2.VerifyResponse:
        await self._call.write(target_pb2.VerifyRequest(**message))  # type: ignore[arg-type]
        return await self._read()

    async def _read(self) -> target_pb2.VerifyResponse:
        answer = await self._call.read()
        if answer is grpc.aio.EOF:
            raise RuntimeError(f"the target ended a stream early: {await self._call.details()}")
        return answer
