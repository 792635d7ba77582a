"""Which replicas may work together: targets that serve one model, and drafts that fit it.

Targets that serve different models may stand behind one orchestrator while they are upgraded one after another. It
serves the model that most of those that answer have, and stays with the one that it has while there is a tie: so it
goes over once the new ones are more, or the old ones are gone, and at least half of the targets are always in use.
Drafts change no lossless text: any of them may be used that speaks the ids of the target's tokenizer and vocabulary,
be it its own or one that it translates to.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from orchestrator.replicas.replica import Replica
from orchestrator.target_laws import MOST_FEATURES
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair
from tandem.v1.model_pb2 import ModelInfo

_log = logging.getLogger(__name__)

# Characters of all that a service calls its model by.
_MOST_NAMES = 4096


class Fit(Protocol):
    def misfits(self, answering: Mapping[Replica, ModelInfo]) -> dict[Replica, TandemError]:
        """Those that must not be used for what they serve, and why."""
        ...


class OneModel:
    """Targets. model: the one that is served; the last one while no target answers, None before the first.

    own: what the orchestrator itself knows of the target: the model that its tokenizer is of.
    """

    def __init__(self) -> None:
        self.model: ModelInfo | None = None
        self.own = ModelInfo()

    def misfits(self, answering: Mapping[Replica, ModelInfo]) -> dict[Replica, TandemError]:
        found = {}
        for replica, model in answering.items():
            try:
                check_pair(draft=self.own, target=model)
            except TandemError as error:
                error.message = (
                    f"the orchestrator's tokenizer, {self.own.model_id}, is not that of the target, {model.model_id};"
                    " start it with the target's as --tokenizer"
                )
                found[replica] = error
            problem = _impossible(model) or ("" if model.vocabulary_size else "no vocabulary")
            if replica not in found and problem:
                told = f"{replica.service.at(replica.endpoint)} is not used: it says that it has {problem}"
                found[replica] = replica.service.error(told)
        self._elect(model for replica, model in answering.items() if replica not in found)
        for replica, model in answering.items():
            if replica not in found and self.model is not None and not same_model(model, self.model):
                others = f"it serves {describe(model)} while {describe(self.model)} is served"
                found[replica] = replica.service.error(f"{replica.service.at(replica.endpoint)} is not used: {others}")
        return found

    def _elect(self, models: Iterable[ModelInfo]) -> None:
        by_identity: dict[object, ModelInfo] = {}
        votes: Counter[object] = Counter()
        for model in models:
            by_identity[identity(model)] = model
            votes[identity(model)] += 1
        if not votes:
            return
        most, count = votes.most_common(1)[0]  # of equals, the one known first
        current = identity(self.model) if self.model is not None else None
        if votes[current] == count:
            most = current
        elif self.model is not None:
            _log.info("the target is now %s, no longer %s", describe(by_identity[most]), describe(self.model))
        self.model = by_identity[most]


def _impossible(model: ModelInfo) -> str:
    """What no service can have; empty for nothing. Callers' requests are checked by what a target says of itself, and
    they would be told that they are at fault."""
    shared = model.intersection
    names = (
        model.model_id, model.revision, model.tokenizer_fingerprint, model.dtype, model.weights,
        shared.own_tokenizer_fingerprint, shared.fingerprint, model.features.family, model.fed_with.features.family,
    )  # fmt: skip
    if sum(map(len, names)) > _MOST_NAMES:
        return "names that fill a page"
    if max(model.end_token_ids, default=0) >= (model.vocabulary_size or 1):
        return f"end tokens {list(model.end_token_ids)[:9]} in a vocabulary of {model.vocabulary_size}"
    if model.HasField("intersection") and not 0 < shared.shared_tokens <= model.vocabulary_size:
        return f"{shared.shared_tokens} shared tokens in a vocabulary of {model.vocabulary_size}"
    if model.HasField("features") and not model.features.width:
        return "features of no width"
    if model.fed_with.positions > MOST_FEATURES:
        return f"use for features of {model.fed_with.positions} positions"
    return ""


class FitsTarget:
    """Drafts, to the target's model as it is known."""

    def __init__(self, targets: OneModel) -> None:
        self._targets = targets

    def misfits(self, answering: Mapping[Replica, ModelInfo]) -> dict[Replica, TandemError]:
        target, found = self._targets.model or self._targets.own, {}
        for replica, model in answering.items():
            try:
                check_pair(draft=model, target=target)
            except TandemError as error:
                found[replica] = error
            if replica not in found and (problem := _impossible(model)):
                told = f"{replica.service.at(replica.endpoint)} is not used: it says that it has {problem}"
                found[replica] = replica.service.error(told)
        return found


def fits(draft: ModelInfo, target: ModelInfo) -> bool:
    """Whether both can work on one sequence."""
    try:
        check_pair(draft=draft, target=target)
    except TandemError:
        return False
    return True


def same_model(one: ModelInfo, other: ModelInfo) -> bool:
    """Whether both give the same numbers but for rounding: a text may be begun at either."""
    return identity(one) == identity(other)


def can_take_over(plan: ModelInfo, other: ModelInfo) -> bool:
    """Whether what was planned for one model can be carried out by another."""
    return _bounds(plan) == _bounds(other)


def describe(model: ModelInfo) -> str:
    return f"{model.model_id}@{model.revision}" if model.revision else model.model_id


def identity(model: ModelInfo) -> tuple[object, ...]:
    """What a model is told from another by; can be a key."""
    # By name, not the whole message: a newer service may say more of the same model.
    return (
        model.model_id,
        model.revision,
        model.tokenizer_fingerprint,
        model.vocabulary_size,
        model.context_length,
        model.dtype,
        model.weights or "full",
    )


def _bounds(model: ModelInfo) -> tuple[object, ...]:
    return model.tokenizer_fingerprint, model.vocabulary_size, model.context_length, tuple(model.end_token_ids)
