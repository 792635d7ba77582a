"""What a completion becomes, with the frame that both endpoints have: one object, or the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.gateway.parameters import Parameters
from orchestrator.gateway.usage import metrics, usage
from tandem.v1 import completion_pb2

_REASONS = {completion_pb2.FINISH_REASON_STOP: "stop", completion_pb2.FINISH_REASON_LENGTH: "length"}

#: Index of a choice in the answer, and what there is to add to it.
Piece = tuple[int, completion_pb2.CompleteResponse]


@dataclass(frozen=True, slots=True)
class Frame:
    """What all chunks of an answer have in common. seeds: of each prompt."""

    parameters: Parameters
    id: str
    fingerprint: str
    seeds: list[int]
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def each(self) -> int:
        """Choices of one prompt."""
        return self.parameters.n or 1

    @property
    def choices(self) -> int:
        return self.each * len(self.seeds)

    def around(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        frame = {"id": self.id, "object": kind, "created": self.created, "model": self.parameters.model}
        return {**frame, "choices": choices, "system_fingerprint": self.fingerprint, **more}

    def choice(self, index: int, body: dict[str, Any], response: completion_pb2.CompleteResponse) -> dict[str, Any]:
        """A choice, or a piece of one, with what both endpoints tell of it."""
        found = {"index": index, **body, "finish_reason": None}
        if self.parameters.return_token_ids:
            found["token_ids"] = list(response.token_ids)
            if response.prompt_token_ids:
                found["prompt_token_ids"] = list(response.prompt_token_ids)
        if response.HasField("finish"):
            found["finish_reason"] = _REASONS[response.finish.reason]
            found["stop_reason"] = response.finish.stop or None
            found["seed"] = self.seeds[index // self.each]
        return found


async def whole(frame: Frame, pieces: AsyncGenerator[Piece]) -> dict[str, Any]:
    """The answer in one piece."""
    found = [completion_pb2.CompleteResponse() for _ in range(frame.choices)]
    texts: list[list[str]] = [[] for _ in found]
    async for index, response in pieces:
        texts[index].append(response.text)
        found[index].MergeFrom(response)
    for response, text in zip(found, texts, strict=True):
        response.text = "".join(text)
    parameters, finishes = frame.parameters, [response.finish for response in found]
    choices = [
        frame.choice(index, parameters.choice().whole(response), response) for index, response in enumerate(found)
    ]
    return frame.around(
        parameters.whole_object, choices, usage=usage(finishes, frame.each), metrics=metrics(finishes)
    )


async def chunks(frame: Frame, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[dict[str, Any]]:
    """The answer as it comes: of each choice an opening, its text, and at last a chunk that says why it ended.

    The last chunk of all has the metrics; with `include_usage` it has no choices and the usage too.
    """
    parameters = frame.parameters
    options = parameters.stream_options
    with_usage = bool(options is not None and options.include_usage)
    more: dict[str, Any] = {"usage": None} if with_usage else {}
    choices = [parameters.choice() for _ in range(frame.choices)]
    opened: set[int] = set()
    finishes: dict[int, completion_pb2.Finish] = {}

    def chunk(index: int, body: dict[str, Any], response: completion_pb2.CompleteResponse, **last: Any) -> Any:
        return frame.around(parameters.chunk_object, [frame.choice(index, body, response)], **more, **last)

    async for index, response in pieces:
        if index not in opened:
            opened.add(index)
            if (opening := choices[index].opening()) is not None:
                yield chunk(index, opening, completion_pb2.CompleteResponse())
        ended = response.HasField("finish")
        if ended:
            finishes[index] = response.finish
            response = _without_finish(response)
        tells = response.text or response.log_probabilities
        if tells or (parameters.return_token_ids and (response.token_ids or response.prompt_token_ids)):
            yield chunk(index, choices[index].delta(response), response)
        if ended:
            end = completion_pb2.CompleteResponse(finish=finishes[index])
            is_last = len(finishes) == frame.choices and not with_usage
            last = {"metrics": metrics(_in_order(finishes))} if is_last else {}
            yield chunk(index, choices[index].delta(end), end, **last)
    if with_usage:
        all_finishes = _in_order(finishes)
        told = {"usage": usage(all_finishes, frame.each), "metrics": metrics(all_finishes)}
        yield frame.around(parameters.chunk_object, [], **told)


def _in_order(finishes: dict[int, completion_pb2.Finish]) -> list[completion_pb2.Finish]:
    return [finishes[index] for index in sorted(finishes)]


def _without_finish(response: completion_pb2.CompleteResponse) -> completion_pb2.CompleteResponse:
    rest = completion_pb2.CompleteResponse()
    rest.CopyFrom(response)
    rest.ClearField("finish")
    return rest
