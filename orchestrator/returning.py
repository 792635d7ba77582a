"""How a draft comes back: another one, or the same, beside the target that goes on alone meanwhile.

It takes in all that was committed before anybody waits for it, by a round that asks for no candidate; so its prompt
does not hold up the target, and the first round that has use for it finds it ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import tenacity

from orchestrator.prefix import Prefix
from orchestrator.replicas import Pair
from orchestrator.settings import OrchestratorSettings
from orchestrator.streams import DraftStream
from tandem.rpc.errors import TandemError
from tandem.v1 import draft_pb2

_log = logging.getLogger(__name__)

# Between two attempts. A draft that becomes ready ends the wait, so that it is used soon, but not by all at once.
_FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS = 0.05, 5.0
_LEAST_WAIT_SECONDS = 0.02
# Of the round that only takes the text in: before all others.
_ROUND = 0


class Return:
    """At work from its construction until `close`, or until it has been taken."""

    def __init__(
        self,
        pair: Pair,
        opening: Callable[[], draft_pb2.DraftOpen],
        tokens: Sequence[int],
        settings: OrchestratorSettings,
    ) -> None:
        """opening: made anew for each attempt, with all of `tokens` that there are then."""
        self._pair = pair
        self._opening = opening
        self._tokens = tokens
        self._timeout = settings.draft_timeout_seconds
        self._rewound: int | None = None  # what was left of the text, since the last attempt
        self._task = asyncio.create_task(self._search())
        # Nobody may ever ask for what it found.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def take(self) -> tuple[DraftStream, Prefix] | None:
        """A stream that is ready, and what it has been told; None where there is none yet."""
        if not self._task.done() or self._task.cancelled():
            return None
        stream, prefix = self._task.result()
        if self._rewound is not None:
            prefix.rewind(self._rewound)
        return stream, prefix

    def rewind(self, length: int) -> None:
        """The text was cut to its first `length` tokens; it may have grown again since."""
        self._rewound = length if self._rewound is None else min(self._rewound, length)

    def close(self) -> None:
        """Ends what it has opened."""
        if self._task.cancel():
            return
        if not self._task.cancelled() and self._task.exception() is None:
            stream, _ = self._task.result()
            stream.close()

    async def _search(self) -> tuple[DraftStream, Prefix]:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TandemError),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_MOST_WAIT_SECONDS)
            + tenacity.wait_random(0, _LEAST_WAIT_SECONDS),
            sleep=self._sleep,
        )
        return await attempts(self._open)

    async def _open(self) -> tuple[DraftStream, Prefix]:
        await self._pair.draft_again()
        lease = self._pair.draft
        assert lease is not None
        stream, prefix, self._rewound = DraftStream.at(lease), Prefix(self._tokens), None
        try:
            stream.open(self._opening())
            message = draft_pb2.DraftRound(
                round=_ROUND, continuation=prefix.continuation(), limits=draft_pb2.DraftLimits(max_tokens=0)
            )
            async with asyncio.timeout(self._timeout):
                drafted = await stream.round(message)
            if drafted.round != _ROUND or drafted.block.token_ids:
                error = TandemError.draft_unavailable("answered with a block that nobody asked for")
                lease.replica.misled(error)
                raise error
        except TimeoutError:
            error = TandemError.draft_unavailable("took too long to take in the text")
            lease.replica.told(error)
            self._gives_back(stream)
            raise error from None
        except BaseException as error:
            if isinstance(error, TandemError):
                _log.info("a draft does not take the text: %s", error)
            self._gives_back(stream)
            raise
        return stream, prefix

    def _gives_back(self, stream: DraftStream) -> None:
        stream.close()
        assert self._pair.draft is not None
        self._pair.draft.release()

    async def _sleep(self, seconds: float) -> None:
        """Or until a draft may have come."""
        change = self._pair.draft_change
        await asyncio.sleep(min(seconds, _LEAST_WAIT_SECONDS))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await change.wait()
