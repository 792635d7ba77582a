"""Which of several processes this one is, as torchrun's variables say. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.models.errors import ModelError


class GroupError(ModelError):
    """The processes of a group cannot run a model together; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """rank: of `world` processes; 0 leads. local_rank: of the `local_world` on this machine. address: of the machine of
    rank 0. attempt: how often torchrun has started the group again."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    attempt: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def on_one_machine(self) -> bool:
        """Whether the whole group is."""
        return self.local_world == self.world


def own_place(variables: Mapping[str, str] = os.environ) -> Place | None:
    """None for a process by itself. Raises GroupError for variables that torchrun does not set so."""
    world = _number(variables, "WORLD_SIZE", least=1) if variables.get("WORLD_SIZE") else 1
    if world == 1:
        return None
    _number(variables, "MASTER_PORT", least=1, most=65535)
    local_world = _number(variables, "LOCAL_WORLD_SIZE", least=1, most=world)
    return Place(
        rank=_number(variables, "RANK", most=world - 1),
        world=world,
        local_rank=_number(variables, "LOCAL_RANK", most=local_world - 1),
        local_world=local_world,
        address=_value(variables, "MASTER_ADDR"),
        attempt=_number(variables, "TORCHELASTIC_RESTART_COUNT") if "TORCHELASTIC_RESTART_COUNT" in variables else 0,
    )


def check_alone(service: str, variables: Mapping[str, str] = os.environ) -> None:
    """For a service that is one process. Raises GroupError where torchrun starts several."""
    place = own_place(variables)
    if place is not None:
        raise GroupError(
            f"WORLD_SIZE is {place.world}: a {service} service is one process, of which replicas may run;"
            " start it without torchrun"
        )


def _value(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name)
    if not value:
        raise GroupError(
            f"WORLD_SIZE is {variables['WORLD_SIZE']} but {name} is not set: start the processes by torchrun, or one"
            " alone without WORLD_SIZE"
        )
    return value


def _number(variables: Mapping[str, str], name: str, *, least: int = 0, most: int | None = None) -> int:
    value = _value(variables, name)
    if not value.isascii() or not value.isdigit() or int(value) < least or (most is not None and int(value) > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise GroupError(f"{name} is {value!r}, and not a number {limits}: start the processes by torchrun")
    return int(value)
