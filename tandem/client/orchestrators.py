"""Which of several orchestrators calls are made to."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tandem.client.retries import may_help
from tandem.rpc.channels import check_endpoint
from tandem.rpc.errors import TandemError


class Orchestrators:
    """Calls go to one of them for as long as it answers, so that what it knows stays of use, and from then on to the
    one after it. The first is drawn by chance: many clients with the same list do not all begin at one.

    Belongs to a client; its calls may come from several threads.
    """

    def __init__(self, endpoints: str | Sequence[str]) -> None:
        """endpoints: HOST:PORT, or several, in a list or with commas between. Raises ValueError."""
        names = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        self.endpoints = tuple(dict.fromkeys(check_endpoint(name.strip()) for name in names))
        if not self.endpoints:
            raise ValueError("no endpoint is named; write HOST:PORT, as 127.0.0.1:7000")
        self.current = random.choice(self.endpoints)

    def __str__(self) -> str:
        return ",".join(self.endpoints)

    def after(self, endpoint: str) -> str:
        return self.endpoints[(self.endpoints.index(endpoint) + 1) % len(self.endpoints)]

    def leave(self, endpoint: str) -> None:
        """It has failed a call; where others have gone by now, they were not asked in vain."""
        if self.current == endpoint:
            self.current = self.after(endpoint)


class Route:
    """Whom one call is made to, attempt after attempt. endpoint: the next one."""

    def __init__(self, orchestrators: Orchestrators) -> None:
        self.endpoint = orchestrators.current
        self._orchestrators = orchestrators

    @property
    def places(self) -> int:
        """How many there are to ask."""
        return len(self._orchestrators.endpoints)

    def may_go_on(self, error: BaseException) -> bool:
        """Whether another attempt may help."""
        return may_help(error)

    def failed(self, error: TandemError) -> TandemError:
        """`error`, of an attempt; the next one is made elsewhere, if that may help."""
        if self.may_go_on(error):
            self._orchestrators.leave(self.endpoint)
            self.endpoint = self._orchestrators.after(self.endpoint)
        return error
