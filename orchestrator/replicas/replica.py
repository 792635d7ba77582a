"""One process of a service: its connections, what it serves, how busy it is, and whether it answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

import grpc
import tenacity

from orchestrator.replicas.circuit import Circuit
from orchestrator.replicas.health import until_not_serving
from orchestrator.replicas.resolve import Address
from orchestrator.replicas.service import NoMessageError, Service
from tandem.rpc.channels import ChannelPool
from tandem.rpc.errors import TandemError
from tandem.v1.model_pb2 import Load, ModelInfo

_log = logging.getLogger(__name__)

# Seconds for which what a replica serves is believed; one that failed is asked at once when it is back.
_MODEL_SECONDS = 10.0
# One that does not answer is asked again after a moment, then ever later; sooner while somebody wants it.
_FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS, _MOST_WANTED_SECONDS = 0.05, 2.0, 0.5
# Seconds for which one that is full comes last, however much later it wants to be asked again.
_FULL_SECONDS = 2.0
# Seconds after which one that refused a handshake is tried again, if it says the same of itself as before.
_REFUSAL_SECONDS = 30.0
# A question that took so much longer than it had was not answered because we ourselves stood still.
_OWN_STALL_SECONDS = 1.0
# Reasons of a stream's end for which the replica, not the caller, is to blame.
_BROKEN = frozenset({"INTERNAL", "NOT_FINITE", "OUT_OF_MEMORY", "UNEXPECTED_MESSAGE", "PREFIX_MISMATCH"})


class Stream(Protocol):
    """What a replica knows of a stream there. asked_at: since when an answer is waited for, of `time.monotonic()`; None
    while none is, or while it takes in a prompt, for which there is no bound."""

    asked_at: float | None

    def give_up(self, error: TandemError) -> None:
        """Ends it: whoever waits for an answer gets `error`."""
        ...


class State(StrEnum):
    """Whether sequences are given to a replica."""

    READY = "ready"
    #: It does not answer, or has not answered yet.
    FAILED = "failed"
    #: It answers, and is of another model, tokenizer or version.
    MISMATCHED = "mismatched"


class Replica:
    """Asked again and again from `start` until `close`.

    model: what it serves; None until it has said so. load: as last reported. problem: why it does not answer; None
    while it does. refusal: why it does not take what it is sent though it answers. lives: times that it has begun to
    answer, or to serve another model: what failed in one life may work in the next. streams: sequences that this
    orchestrator has there. circuit: whether its streams work. state, why: as its group sees it.
    """

    def __init__(
        self,
        service: Service,
        address: Address,
        pool: ChannelPool,
        *,
        timeout: float,
        pace: Callable[[], float],
        is_wanted: Callable[[], bool],
        changed: Callable[[], None],
        stall_seconds: float = math.inf,
        answer_seconds: float = math.inf,
    ) -> None:
        """timeout: seconds for an answer. pace: seconds between two questions. is_wanted: whether somebody waits for
        it. changed: called when anything but the load is another. stall_seconds: after which one that neither answers a
        question nor says anything on a stream has its streams given up. answer_seconds: after which a stream that has
        not been answered is."""
        self.service = service
        self.address = address
        self.pool = pool
        self.model: ModelInfo | None = None
        self.load = Load()
        self.problem: TandemError | None = None
        self.refusal: TandemError | None = None
        self.was_asked = False
        self.lives = 0
        self.circuit = Circuit()
        self.state = State.FAILED
        self.why: TandemError | None = None
        self._found_at = time.monotonic()
        self._logged: State | None = None
        self._timeout = timeout
        self._pace = pace
        self._is_wanted = is_wanted
        self._changed = changed
        self._stall_seconds, self._answer_seconds = stall_seconds, answer_seconds
        self._open: set[Stream] = set()
        self._heard_at = self._asked_at = time.monotonic()
        self._streams = 0
        self._streams_reported = 0  # when the load was asked for
        self._idle = asyncio.Event()
        self._idle.set()
        self._model_from, self._full_until, self._refused_at = -math.inf, -math.inf, -math.inf
        self._failures = 0
        self._woken = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        return self.address.endpoint

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Ends what is open there."""
        tasks = [task for task in (self._watching, self._asking, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pool.close()

    async def retire(self) -> None:
        """Closes it once its last stream has ended. It is no longer asked."""
        for task in (self._watching, self._listening):
            if task is not None:
                task.cancel()
        try:
            await self._idle.wait()
        finally:
            await self.close()

    # What its streams count and tell.

    @property
    def streams(self) -> int:
        return self._streams

    @streams.setter
    def streams(self, count: int) -> None:
        self._streams = count
        if count:
            self._idle.clear()
        else:
            self._idle.set()

    @property
    def sessions(self) -> int:
        """Sequences that it holds: as reported, and as many more as have been begun here since."""
        return max(self._streams, self.load.sessions + self._streams - self._streams_reported)

    @property
    def is_full(self) -> bool:
        """Whether it has just refused a sequence for want of room."""
        return time.monotonic() < self._full_until

    def told(self, error: TandemError) -> None:
        """Of a stream there that ended with `error`."""
        if error.reason == self.service.unavailable:
            self._circuit_failed(error, self.lives)
        elif error.reason in _BROKEN:
            self._circuit_failed(error)
        if error.reason in (self.service.unavailable, "SHUTTING_DOWN"):
            self.fail(error)
        elif error.reason == "OVERLOADED":
            self._full_until = time.monotonic() + min(error.retry_after or _FULL_SECONDS, _FULL_SECONDS)
        elif error.reason in ("TOKENIZER_MISMATCH", "PROTOCOL_MISMATCH"):
            self._refuse(error)
            self.wake()
        else:
            self.wake()

    def misled(self, error: TandemError) -> None:
        """What a stream there said could not be used, though it goes on answering."""
        self._circuit_failed(error)

    def _circuit_failed(self, error: TandemError, life: int | None = None) -> None:
        if self.circuit.failed(life):
            _log.warning(
                "%s is left alone for %.1f s: its streams fail: %s",
                self.service.at(self.endpoint), self.circuit.left, error.message,
            )  # fmt: skip
            self._changed()
            asyncio.get_running_loop().call_later(self.circuit.left + 0.01, self._changed)

    def entered(self, stream: Stream) -> None:
        """Opened there. To be taken back by `left`."""
        self._open.add(stream)
        self.circuit.began()

    def left(self, stream: Stream) -> None:
        self._open.discard(stream)

    def heard(self) -> None:
        """A stream there has been answered."""
        self._heard_at = time.monotonic()
        if self.circuit.failures:
            was_open = self.circuit.is_open
            self.circuit.succeeded()
            if was_open:
                self._changed()

    def fail(self, error: TandemError) -> None:
        """It gets nothing more until it answers again."""
        self._fail(error)
        self.wake()

    def serves(self, model: ModelInfo) -> None:
        """What it says of itself on a stream: newer than what is known."""
        if self.model is not None and model != self.model:
            self._learn(model)
            self._changed()

    def wake(self) -> None:
        """Asks now, also what it serves."""
        self._model_from = -math.inf
        self._woken.set()

    def note(self, state: State, why: TandemError | None, *, patience: float) -> None:
        """How its group sees it; said in the log where that is new. patience: seconds for which one that has just been
        found may be silent: services of a host start in any order."""
        self.state, self.why = state, why
        is_starting = self._logged is None and time.monotonic() - self._found_at < patience
        if state is self._logged or (state is State.FAILED and is_starting):
            return
        self._logged = state
        if why is not None:
            _log.warning("%s", why.message)
        elif self.model is not None:
            _log.info("%s is ready: %s", self.service.at(self.endpoint), self.model.model_id)

    # Asking.

    async def ask(self) -> None:
        """Asks now, once for all who want to know meanwhile; what was found stands in the fields."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)  # one who leaves does not end it for the others

    async def _watch(self) -> None:
        patient, eager = (
            tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=most)
            for most in (_MOST_WAIT_SECONDS, _MOST_WANTED_SECONDS)
        )
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TandemError),
            wait=lambda state: (eager if self._is_wanted() else patient)(state),
            sleep=self._sleep,
        )
        while True:
            await attempts(self._must_answer)
            self._end_overdue()
            await self._sleep(self._pace())

    async def _sleep(self, seconds: float) -> None:
        """Or until there is a reason to ask at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _must_answer(self) -> None:
        await self.ask()
        if self.problem is not None:
            raise TandemError(self.problem.reason, self.problem.message)

    async def _ask(self) -> None:
        failures, streams = self._failures, self._streams
        model = self.model
        is_known = model is not None and time.monotonic() - self._model_from < _MODEL_SECONDS
        try:
            with self.pool.lease() as channel:
                if not is_known:
                    self._asked_at = time.monotonic()
                    model = await self.service.model(channel, self._timeout)
                self._asked_at = time.monotonic()
                load = await self.service.load(channel, self._timeout)
                self._asked_at = time.monotonic()
                is_serving = await self.service.is_serving(channel, self._timeout)
        except grpc.aio.AioRpcError as error:
            self._not_answered(error)
            self._end_stalled()
            return
        except NoMessageError as error:
            self._fail(self.service.error(f"{self.service.at(self.endpoint)} {error}"))
            return
        self._heard_at = time.monotonic()
        if not is_serving:
            self._fail(self.service.error(f"{self.service.at(self.endpoint)} says that it is not serving"))
            return
        if failures != self._failures:  # a stream has failed meanwhile: the answer may be older than that
            return
        assert model is not None
        changes = not self.was_asked or self.problem is not None
        if changes:
            self.was_asked, self.problem, self.refusal = True, None, None
            self.lives += 1
        if not is_known:
            changes |= self._learn(model)
        if self.refusal is not None and time.monotonic() - self._refused_at > _REFUSAL_SECONDS:
            self.refusal, changes = None, True
        self.load, self._streams_reported = load, streams
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        if changes:
            self._changed()

    def _end_stalled(self) -> None:
        """A question has not been answered. A process that stands still, or whose packets are lost, says nothing on its
        streams either; one that is only busy does."""
        now = time.monotonic()
        if now - self._asked_at > self._timeout + _OWN_STALL_SECONDS:
            self._heard_at = now
        elif now - self._heard_at >= self._stall_seconds:
            self._end(self._open, f"has said nothing for {now - self._heard_at:.1f} s")

    def _end_overdue(self) -> None:
        """It answers, but not on some of its streams."""
        latest = time.monotonic() - self._answer_seconds
        overdue = [stream for stream in self._open if stream.asked_at is not None and stream.asked_at < latest]
        self._end(overdue, f"has not answered for {self._answer_seconds:g} s")

    def _end(self, streams: Iterable[Stream], problem: str) -> None:
        for stream in list(streams):
            stream.give_up(self.service.error(f"{self.service.at(self.endpoint)} {problem}"))

    async def _listen(self) -> None:
        """It says at once when it stops; the next question would come seconds later."""
        if await until_not_serving(self.service, self.pool):
            self.fail(self.service.error(f"{self.service.at(self.endpoint)} says that it is not serving"))

    def _learn(self, model: ModelInfo) -> bool:
        """Whether it is another than before."""
        self._model_from = time.monotonic()
        if model == self.model:
            return False
        if self.model is not None:
            self.lives += 1
        self.model, self.refusal = model, None
        return True

    def _not_answered(self, error: grpc.aio.AioRpcError) -> None:
        where, code = self.service.at(self.endpoint), error.code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self.was_asked, self.problem, self.model = True, None, None
            self._refuse(self.service.error(f"what answers at {self.endpoint} is no {self.service.name} service"))
        elif code is grpc.StatusCode.UNAVAILABLE:
            self._fail(self.service.explain(error, self.endpoint))
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:  # it is there, but says nothing
            self._fail(self.service.error(f"{where} took too long to say what it serves"))
        else:
            self._fail(self.service.error(f"{where}: {error.details() or code.name}"))

    def _fail(self, error: TandemError) -> None:
        self._failures += 1
        self.was_asked, self.problem = True, error
        self._model_from = -math.inf
        self._changed()

    def _refuse(self, error: TandemError) -> None:
        self.refusal, self._refused_at = error, time.monotonic()
        self._changed()
