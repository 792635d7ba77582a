"""What clients of OpenAI's API call a model and a policy: `MODEL`, or `MODEL:POLICY`.

A client of that API does not expect that its text could have another law than the model's. So one that names no policy
gets a lossless one: `lossless`, or with a seed `reproducible`, under which a seed has one text, whether or not there is
speculation, and whatever the draft. Policies without a name are said as an object, as `policy.proto` has it.
"""

from __future__ import annotations

from orchestrator.gateway.errors import HttpError
from tandem.policies import POLICIES
from tandem.v1 import policy_pb2


def named(name: str, param: str) -> policy_pb2.SpeculationPolicy:
    """Raises HttpError, naming `param`, for a name that there is not."""
    if name not in POLICIES:
        raise HttpError.invalid(param, f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]


def split(asked: str, served: str) -> str | None:
    """The policy that the name of a model asks for; None where it asks for none. served: what the target is called.

    Raises HttpError for a model that is not served.
    """
    if asked == served:
        return None
    model, _, policy = asked.rpartition(":")
    if model == served and policy in POLICIES:
        return policy
    raise HttpError(
        404,
        f"model: {asked!r} is not served; there is {served!r}, with or without one of :{', :'.join(POLICIES)}",
        code="model_not_found",
        param="model",
    )


def all_names(served: str) -> dict[str, str]:
    """Every name that a model can be asked for by, and the policy that it then has (`lossless` where none is named)."""
    return {served: "lossless", **{f"{served}:{name}": name for name in POLICIES}}
