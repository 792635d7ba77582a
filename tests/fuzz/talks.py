"""What an orchestrator says on a stream to a draft or a target: good messages, and what is made of them."""

from __future__ import annotations

import random
import struct
from typing import Any

from tandem.rpc.handshake import make_handshake
from tandem.v1 import block_pb2, distribution_pb2, draft_pb2, grammar_pb2, sampling_pb2, target_pb2
from tests.fuzz.seeded import disturbed, message, torn, with_unknown

VOCABULARY, CONTEXT = 64, 96
GREEDY, RATIO, BLOCK, COUPLED = 1, 2, 3, 4
#: Tokens of a text, beyond which a talk is not led on.
_LONGEST = CONTEXT - 12


class Talk:
    """One sequence, as one who behaves knows it. end: tokens that are committed. candidates: of the last block.
    is_silent: whether nothing answers what `next` gave last."""

    path: str
    request: type
    is_silent = False

    def __init__(self, drawn: random.Random) -> None:
        self.drawn = drawn
        self.rule = drawn.choice((GREEDY, GREEDY, RATIO, BLOCK, COUPLED))
        prompt = [drawn.randrange(VOCABULARY) for _ in range(drawn.randint(1, 20))]
        self.round = drawn.choice((0, 0, 1, 7))
        self.end = len(prompt)
        self.candidates: list[int] = []
        self.entries = drawn.choice((1, 4, 64)) if self.is_sampled else drawn.choice((0, 0, 3, 64))
        self.mass = 1.0 if self.is_sampled else drawn.choice((0.5, 0.9, 1.0))
        self.opening: dict[str, Any] = {
            "handshake": make_handshake(),
            "prompt_token_ids": prompt,
            "sampling": self._sampling(),
            "verification": self.rule,
            "random_key": sampling_pb2.RandomKey(seed=drawn.getrandbits(64), choice=drawn.randrange(4)),
            "stop_token_ids": drawn.sample(range(VOCABULARY), drawn.choice((0, 0, 2))),
            "prompt_length": drawn.choice((0, 0, 1)),
            "priority": drawn.choice((0, 0, 5, -100)),
        }
        if drawn.random() < 0.05:
            self.opening |= {"grammar": grammar_pb2.Grammar(regex="[0-9]{1,9}"), "grammar_end_token_ids": [0]}
        elif drawn.random() < 0.2:
            self.opening["min_tokens"] = drawn.randrange(5)

    @property
    def is_sampled(self) -> bool:
        return self.rule in (RATIO, BLOCK)

    @property
    def goes_on(self) -> bool:
        return self.end < _LONGEST

    def _sampling(self) -> sampling_pb2.SamplingParams:
        drawn = self.drawn
        return sampling_pb2.SamplingParams(
            temperature=0.0 if self.rule == GREEDY else drawn.choice((0.2, 1.0, 1.8)),
            top_k=drawn.choice((0, 0, 5)),
            top_p=drawn.choice((1.0, 0.9)),
            repetition_penalty=drawn.choice((1.0, 1.2)),
            logit_bias={drawn.randrange(VOCABULARY): -2.0} if drawn.random() < 0.2 else {},
        )

    def _continuation(self) -> block_pb2.Continuation:
        """Commits some of the last block, and a token that follows."""
        self.round += self.drawn.choice((1, 1, 3))
        kept = self.drawn.randint(0, len(self.candidates))
        follows = [self.drawn.randrange(VOCABULARY) for _ in range(self.drawn.choice((1, 1, 1, 0, 2)))]
        found = block_pb2.Continuation(position=self.end + kept, kept=kept, token_ids=follows)
        self.end += kept + len(follows)
        self.candidates = []
        return found

    def first(self) -> Any:
        raise NotImplementedError

    def next(self) -> Any:
        """A good message; its answers are to be told by `took`."""
        raise NotImplementedError

    def took(self, answer: bytes) -> bool:
        """Whether it was the last answer to a message."""
        raise NotImplementedError

    def hostile(self) -> bytes:
        """A message that nobody should send, or nobody now."""
        drawn = self.drawn
        good = self.next() if drawn.random() < 0.8 else self.first()
        match drawn.randrange(9):
            case 0:
                return bytes(torn(drawn, good.SerializeToString()))
            case 1:
                return bytes(with_unknown(drawn, good.SerializeToString()))
            case 2:
                return bytes(message(drawn, self.request).SerializeToString())
            case 3:  # as if rounds had been lost, or said twice
                self.round = drawn.choice((0, max(0, self.round - 1), self.round + 5, 2**64 - 99))
                return bytes(self.next().SerializeToString())
            case 4:
                self.end = max(0, self.end + drawn.choice((-1, 1, -self.end, 1000)))
                return bytes(self.next().SerializeToString())
            case 5:
                return b""
            case _:
                return bytes(disturbed(drawn, good).SerializeToString())


class DraftTalk(Talk):
    """ahead: candidates of blocks for what may become of the last one, by outcome."""

    path = "/tandem.v1.DraftService/Draft"
    request = draft_pb2.DraftRequest

    def __init__(self, drawn: random.Random) -> None:
        super().__init__(drawn)
        self.ahead: dict[tuple[int, int], list[int]] = {}

    def first(self) -> draft_pb2.DraftRequest:
        format = distribution_pb2.DistributionFormat(max_entries=self.entries, mass=self.mass)
        return draft_pb2.DraftRequest(open=draft_pb2.DraftOpen(format=format, **self.opening))

    def next(self) -> draft_pb2.DraftRequest:
        drawn = self.drawn
        self.is_silent = False
        if self.ahead and drawn.random() < 0.7:
            return draft_pb2.DraftRequest(taken=self._taken())
        has_tail = self.candidates and self.entries and not self.is_sampled and self.entries < VOCABULARY
        if has_tail and drawn.random() < 0.3:
            indices = drawn.sample(range(len(self.candidates)), drawn.randint(1, len(self.candidates)))
            return draft_pb2.DraftRequest(rows=draft_pb2.DraftRows(round=self.round, indices=indices))
        limits = draft_pb2.DraftLimits(max_tokens=drawn.choice((0, 1, 3, 6)), min_tokens=drawn.randrange(2))
        if drawn.random() < 0.3:
            limits.max_entropy_before = 1.0
        if drawn.random() < 0.2:
            limits.min_survival.extend([0.3, 0.2])
            limits.acceptance_curve.entropies.extend([0.0, 2.0])
            limits.acceptance_curve.acceptances.extend([0.9, 0.3])
        continuation = self._continuation()
        self.ahead = {}
        return draft_pb2.DraftRequest(
            round=draft_pb2.DraftRound(
                round=self.round, continuation=continuation, limits=limits, look_ahead=self._look_ahead()
            )
        )

    def _look_ahead(self) -> draft_pb2.LookAhead:
        most = self.drawn.choice((0, 1, 4, 64))
        return draft_pb2.LookAhead(max_branches=most, limits={"max_tokens": self.drawn.choice((0, 1, 5))})

    def _taken(self) -> draft_pb2.DraftTaken:
        """One that came ahead. Nobody answers it."""
        (kept, token), block = self.drawn.choice(sorted(self.ahead.items()))
        used = self.drawn.randint(0, len(block))
        self.round += 1
        continuation = block_pb2.Continuation(position=self.end + kept, kept=kept, token_ids=[token])
        self.end += kept + 1
        self.candidates, self.ahead, self.is_silent = block[:used], {}, True
        return draft_pb2.DraftTaken(
            round=self.round, continuation=continuation, used=used, look_ahead=self._look_ahead()
        )

    def took(self, answer: bytes) -> bool:
        read = draft_pb2.DraftResponse.FromString(answer)
        if read.HasField("ahead"):
            if read.ahead.round == self.round:
                for branch in read.ahead.branches:
                    self.ahead.setdefault((branch.kept, branch.token_id), []).extend(branch.block.token_ids)
            return False
        if read.HasField("block"):
            self.candidates = list(read.block.block.token_ids)
        return True


class TargetTalk(Talk):
    path = "/tandem.v1.TargetService/Verify"
    request = target_pb2.VerifyRequest

    def __init__(self, drawn: random.Random) -> None:
        super().__init__(drawn)
        self._has_tail = False
        self._asked: list[int] = []

    def first(self) -> target_pb2.VerifyRequest:
        opening = target_pb2.VerifyOpen(**self.opening)
        if self.drawn.random() < 0.3:
            opening.log_probabilities = self.drawn.choice((0, 2, 20))
        if self.drawn.random() < 0.2:
            opening.format.max_entries = self.drawn.choice((1, 64, 1000))
        return target_pb2.VerifyRequest(open=opening)

    def next(self) -> target_pb2.VerifyRequest:
        drawn = self.drawn
        if self.candidates and self._has_tail and drawn.random() < 0.4:
            row = struct.pack("<e", -4.16) * VOCABULARY
            count = len(self.candidates)
            rows = [distribution_pb2.FullRow(index=index, log_probabilities=row) for index in range(count)]
            return target_pb2.VerifyRequest(resolve=target_pb2.ResolveDistances(round=self.round, rows=rows))
        continuation = self._continuation()
        if drawn.random() < 0.3:
            asked = target_pb2.Generate(round=self.round, continuation=continuation, max_tokens=drawn.randint(1, 6))
            return target_pb2.VerifyRequest(generate=asked)
        block = self._block(drawn.choice((0, 1, 3, 6)))
        self._asked = list(block.token_ids)
        return target_pb2.VerifyRequest(
            round=target_pb2.VerifyRound(round=self.round, continuation=continuation, block=block)
        )

    def _block(self, size: int) -> block_pb2.Block:
        block = block_pb2.Block(position=self.end)
        has_rows = self.is_sampled or self.drawn.random() < 0.5
        self._has_tail = has_rows and not self.is_sampled and size > 0
        for _ in range(size):
            one, other = self.drawn.sample(range(VOCABULARY), 2)
            block.token_ids.append(self.drawn.choice((one, other)) if self.is_sampled else one)
            if has_rows:
                block.distributions.add(
                    token_ids=struct.pack("<II", one, other),
                    log_probabilities=struct.pack("<ee", -0.4, -1.3),
                    tail_mass=0.0 if self.is_sampled else 0.1,
                )
        return block

    def took(self, answer: bytes) -> bool:
        read = target_pb2.VerifyResponse.FromString(answer)
        if read.HasField("verified"):
            self.candidates = self._asked
        if read.HasField("generated"):
            self.end += 1
            return bool(read.generated.last)
        return True
