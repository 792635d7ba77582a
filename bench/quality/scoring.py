"""What the target thinks of a text that is there already: fed to it token by token (teacher forcing)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from tandem.rpc.channels import CLIENT_OPTIONS
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import make_handshake
from tandem.v1 import sampling_pb2, target_pb2, target_pb2_grpc

_BLOCK = 64  # most candidates that the target takes at once


@dataclass(frozen=True, slots=True)
class Score:
    """Of one text of at least one token. log_p: log-probability of each token in nats under the target, given the
    prompt and the tokens before it. largest: of the target's likeliest token there."""

    log_p: tuple[float, ...]
    largest: tuple[float, ...]

    @property
    def negative_log_likelihood(self) -> float:
        """In nats per token."""
        return -statistics.fmean(self.log_p)

    @property
    def agreement(self) -> float:
        """Share of the tokens that are the target's likeliest after the tokens before them; one of several equally
        likely counts."""
        return statistics.fmean(one >= best for one, best in zip(self.log_p, self.largest, strict=True))


class Scorer:
    """Asks one target service, by verification of blocks whose candidates are the text; blocking.

    The numbers are those that verification decides by: log-probabilities after the request's chain, which at
    temperature 0 is the softmax at temperature 1.
    """

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=CLIENT_OPTIONS)
        self._stub = target_pb2_grpc.TargetServiceStub(self._channel)

    def score(self, prompt: Sequence[int], text: Sequence[int], temperature: float) -> Score:
        """Raises TandemError."""
        log_p: list[float] = []
        largest: list[float] = []
        try:
            for response in self._stub.Verify(_messages(prompt, text, temperature)):
                if response.HasField("verified"):
                    log_p += response.verified.log_probabilities
                    # The last one is of the position after the block.
                    largest += response.verified.max_log_probabilities[:-1]
        except grpc.RpcError as error:
            raise TandemError.from_rpc_error(error) from error
        return Score(tuple(log_p), tuple(largest))

    def close(self) -> None:
        self._channel.close()


def _messages(prompt: Sequence[int], text: Sequence[int], temperature: float) -> Iterator[target_pb2.VerifyRequest]:
    """Opens, then verifies `text` block by block."""
    greedy = temperature == 0
    opening = target_pb2.VerifyOpen(
        handshake=make_handshake(),
        prompt_token_ids=prompt,
        sampling=sampling_pb2.SamplingParams(temperature=temperature),
        # Neither needs the law that a candidate was drawn from.
        verification=sampling_pb2.VERIFICATION_RULE_GREEDY if greedy else sampling_pb2.VERIFICATION_RULE_COUPLED,
    )
    yield target_pb2.VerifyRequest(open=opening)
    for number, start in enumerate(range(0, len(text), _BLOCK)):
        message = target_pb2.VerifyRound(round=number)
        message.continuation.position = len(prompt)
        if start:
            # All of the last block is kept. Its last token is said again, as what follows the others, so that there is
            # something to feed.
            message.continuation.position += start - 1
            message.continuation.kept = _BLOCK - 1
            message.continuation.token_ids.append(text[start - 1])
        message.block.position = len(prompt) + start
        message.block.token_ids.extend(text[start : start + _BLOCK])
        yield target_pb2.VerifyRequest(round=message)
