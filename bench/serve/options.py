"""What the command was asked for, once its flags are known to go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.policies import ADASD, ALONE, GOODPUT, VANILLA, chosen
from bench.serve.compare import FIXED
from bench.serve.figures import LEAST_REPETITIONS
from bench.serve.loops import Load
from bench.serve.run import Scale
from tandem.cli.errors import CliError
from tandem.v1 import policy_pb2

_CLIENTS, _CLIENTS_QUICK = (1, 2, 4, 8, 16), (1, 4)
_SECONDS, _SECONDS_QUICK = 10.0, 2.0
_MAX_TOKENS, _MAX_TOKENS_QUICK = 64, 16
_POLICIES = [ALONE, VANILLA, ADASD, GOODPUT]


@dataclass(frozen=True, slots=True)
class Options:
    """Flags as they were given; None and empty for those that were not."""

    clients: Sequence[int] = ()
    rate: Sequence[float] = ()
    seconds: float | None = None
    requests: int = 1
    repeat: int | None = None
    in_flight: int = 64
    timeout: float = 300.0
    policy: Sequence[str] = ()
    sweep: bool = False
    max_tokens: int | None = None
    check: bool = False
    quick: bool = False

    def __post_init__(self) -> None:
        """Raises CliError for flags that do not go together."""
        if self.check and self.repeat is not None and self.repeat < LEAST_REPETITIONS:
            raise CliError(f"--check needs --repeat {LEAST_REPETITIONS} or more, not {self.repeat}")
        if any(rate <= 0 for rate in self.rate):
            raise CliError("--rate: must be above 0")

    def loads(self) -> list[Load]:
        """From the least; rates after clients. The default ones where neither was named."""
        clients = self.clients or (() if self.rate else _CLIENTS_QUICK if self.quick else _CLIENTS)
        closed = [Load(clients=each) for each in sorted(set(clients))]
        return closed + [Load(rate=each) for each in sorted(set(self.rate))]

    def policies(self) -> Mapping[str, policy_pb2.SpeculationPolicy]:
        """Raises ValueError for an unknown one."""
        return {**chosen(list(self.policy) or _POLICIES), **(FIXED if self.sweep else {})}

    def tokens(self) -> int:
        return self.max_tokens or (_MAX_TOKENS_QUICK if self.quick else _MAX_TOKENS)

    def scale(self) -> Scale:
        return Scale(
            seconds=self.seconds or (_SECONDS_QUICK if self.quick else _SECONDS),
            requests=self.requests,
            repetitions=self.repeat or (LEAST_REPETITIONS if self.check else 1),
            in_flight=self.in_flight,
            timeout=self.timeout,
        )

    def to_plain(self) -> dict[str, Any]:
        """For the bench's record: what they came to."""
        scale = self.scale()
        return {
            "clients": [load.clients for load in self.loads() if not load.is_open],
            "rate": [load.rate for load in self.loads() if load.is_open],
            "seconds": scale.seconds,
            "requests": scale.requests,
            "repeat": scale.repetitions,
            "in_flight": scale.in_flight,
            "timeout": scale.timeout,
            "policies": list(self.policies()),
            "sweep": self.sweep,
            "max_tokens": self.tokens(),
        }
