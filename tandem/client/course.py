"""How a completion that is streamed gets to its end, whatever becomes of the orchestrators on the way."""

from __future__ import annotations

import secrets
from typing import Any

import grpc

from tandem.client.errors import BadInputError
from tandem.client.orchestrators import Orchestrators, Route
from tandem.client.retries import Deadline, Retries, settings
from tandem.rpc.errors import UNSPECIFIED, TandemError
from tandem.v1 import completion_pb2

# What a connection that was cut looks like, besides UNAVAILABLE, where no orchestrator has said why.
_CUT = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class Course(Route):
    """A call of `Complete`, begun anew where it is lost: with nothing of it delivered as it was, else, where it is to
    be resumed, with the tokens that are there. Blocking or not is the reader's matter."""

    def __init__(
        self,
        request: completion_pb2.CompleteRequest,
        orchestrators: Orchestrators,
        deadline: Deadline,
        retries: Retries,
        *,
        resumes: bool,
    ) -> None:
        """resumes: whether it goes on elsewhere once something was delivered. Raises BadInputError for what cannot."""
        super().__init__(orchestrators)
        self.deadline = deadline
        self._retries = retries
        self._resumes = resumes
        self._request = request
        self._tokens = list(request.resume.ids)
        self._request_id = request.request_id
        self._delivered = False
        self._openings = 0  # messages that were delivered before the first token: of the prompt
        self._repeats = 0  # of those, how many the call has still to tell again
        self._choices = max(1, request.n)  # those that have not ended
        if resumes:
            self._request = _resumable(request)

    @property
    def is_over(self) -> bool:
        """Whether all was delivered; what befalls the connection now is of no interest."""
        return self._choices == 0

    def begin(self) -> completion_pb2.CompleteRequest:
        """For the next call."""
        self._repeats = 0
        if not self._delivered:
            return self._request
        rest = completion_pb2.CompleteRequest()
        rest.CopyFrom(self._request)
        rest.request_id = self._request_id
        if self._tokens:
            rest.resume.ids[:] = self._tokens
        else:  # not all that is told of the prompt may have come
            self._repeats = self._openings
        return rest

    def is_new(self, response: completion_pb2.CompleteResponse) -> bool:
        """Whether `response`, of the call, is to be delivered; notes that it is."""
        is_opening = not response.token_ids and not response.HasField("finish")
        if is_opening and self._repeats:
            self._repeats -= 1
            return False
        self._delivered = True
        self._openings += is_opening
        self._request_id = response.request_id
        self._tokens.extend(response.token_ids)
        self._choices -= response.HasField("finish")
        return True

    def may_go_on(self, error: BaseException) -> bool:
        if not self._resumes:
            return not self._delivered and super().may_go_on(error)
        return super().may_go_on(error) or _is_cut(error)

    def settings(self) -> dict[str, Any]:
        """Arguments of a tenacity.Retrying or AsyncRetrying."""
        return settings(self._retries, self.deadline, self)


def _is_cut(error: BaseException) -> bool:
    return isinstance(error, TandemError) and error.reason == UNSPECIFIED and error.code in _CUT


def _resumable(request: completion_pb2.CompleteRequest) -> completion_pb2.CompleteRequest:
    """With a seed, which both parts need to have in common. Raises BadInputError."""
    if request.n > 1:
        raise BadInputError.invalid_field("n", "must be 1 for a completion that is to be resumed")
    if not request.sampling.temperature or request.sampling.HasField("seed"):
        return request
    seeded = completion_pb2.CompleteRequest()
    seeded.CopyFrom(request)
    seeded.sampling.seed = secrets.randbits(63)
    return seeded
