"""What callers ask for, and the only right answer to it: the text of the target alone, taken before any fault.

Greedy and coupled texts are the target's own whatever the draft does. So are those of the ratio and block rules where
one token is left to draw from, which sends their distributions over the wire all the same. For what may differ with
the draft (lossy rules, and a ratio or block rule that draws) the form alone is known.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tandem.policies import POLICIES, policy_from_names
from tandem.v1 import completion_pb2, policy_pb2
from tests.chaos.models import Models

OFF = policy_pb2.SpeculationPolicy(off=True)
_GREEDY: dict[str, Any] = {"temperature": 0.0}
_ONE_LEFT = {"temperature": 1.0, "top_k": 1}
_REGEX = "[a-z]{2,6}( [a-z]{2,6}){4,30}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one choice."""

    tokens: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Work:
    """kind: for tables. request: without a name. answers: one for each choice; none where only the form is known."""

    kind: str
    request: completion_pb2.CompleteRequest
    answers: tuple[Answer, ...] = field(default=())
    has_answer: bool = True

    def named(self, name: str) -> completion_pb2.CompleteRequest:
        request = completion_pb2.CompleteRequest()
        request.CopyFrom(self.request)
        request.request_id = name
        return request

    def alone(self, name: str) -> completion_pb2.CompleteRequest:
        """The same of the target alone."""
        request = self.named(name)
        request.speculation.CopyFrom(OFF)
        return request

    @property
    def choices(self) -> int:
        return self.request.n or 1

    def answered(self, answers: Sequence[Answer]) -> Work:
        return replace(self, answers=tuple(answers)) if self.has_answer else self


def make_works(models: Models, source: random.Random, variants: int) -> list[Work]:
    """variants: of each kind, with prompts and seeds of their own."""
    kinds = (*_KINDS, *_TINY_KINDS) if models.is_tiny else _KINDS
    return [make(models, source) for make in kinds for _ in range(variants)]


def make_request(
    models: Models, source: random.Random, policy: policy_pb2.SpeculationPolicy, **fields: Any
) -> completion_pb2.CompleteRequest:
    prompt = fields.pop("prompt", None) or models.prompt(source)
    where = {"text": prompt} if isinstance(prompt, str) else {"tokens": completion_pb2.TokenIds(ids=prompt)}
    options = {"max_tokens": source.randint(*models.texts), "ignore_end_tokens": True, **fields}
    return completion_pb2.CompleteRequest(speculation=policy, **where, **options)


def _alone_greedy(models: Models, source: random.Random) -> Work:
    return Work("alone, greedy", make_request(models, source, OFF, sampling=_GREEDY))


def _alone_seeded(models: Models, source: random.Random) -> Work:
    return Work("alone, seeded", make_request(models, source, OFF, sampling=_seeded(source)))


def _exact(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "exact", max_tokens=source.randint(2, 6))
    return Work("exact, greedy", make_request(models, source, policy, sampling=_GREEDY))


def _lossless(models: Models, source: random.Random) -> Work:
    return Work("goodput, greedy", make_request(models, source, POLICIES["lossless"], sampling=_GREEDY))


def _coupled(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "coupled", max_tokens=source.randint(2, 6))
    return Work("coupled, seeded", make_request(models, source, policy, sampling=_seeded(source)))


def _reproducible(models: Models, source: random.Random) -> Work:
    policy = POLICIES["reproducible"]
    return Work("goodput coupled, seeded", make_request(models, source, policy, sampling=_seeded(source)))


def _two_choices(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "coupled")
    return Work("coupled, two choices", make_request(models, source, policy, sampling=_seeded(source), n=2))


def _penalised(models: Models, source: random.Random) -> Work:
    """Whoever takes over has to know which tokens were generated and which are the prompt's."""
    sampling = {"temperature": 0.0, "frequency_penalty": 0.6, "presence_penalty": 0.4, "repetition_penalty": 1.1}
    policy = policy_from_names("fixed", "exact")
    return Work("exact, with penalties", make_request(models, source, policy, sampling=sampling))


def _ratio_of_one(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "ratio")
    return Work("ratio, one token left", make_request(models, source, policy, sampling={**_ONE_LEFT, "seed": 1}))


def _block_of_one(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "block")
    return Work("block, one token left", make_request(models, source, policy, sampling={**_ONE_LEFT, "seed": 2}))


def _ratio(models: Models, source: random.Random) -> Work:
    accept = source.choice(["ratio", "block"])
    request = make_request(models, source, policy_from_names("fixed", accept), sampling=_seeded(source))
    return Work("ratio or block, form only", request, has_answer=False)


def _adasd(models: Models, source: random.Random) -> Work:
    request = make_request(models, source, POLICIES["adasd"], sampling=_GREEDY)
    return Work("AdaSD, form only", request, has_answer=False)


def _grammar(models: Models, source: random.Random) -> Work:
    """Whoever takes over has to find the grammar's state from the text so far."""
    request = make_request(models, source, policy_from_names("fixed", "exact"), sampling=_GREEDY)
    request.ignore_end_tokens = False
    request.grammar.regex = _REGEX
    return Work("exact, with a grammar", request)


def _log_probabilities(models: Models, source: random.Random) -> Work:
    policy = policy_from_names("fixed", "exact")
    request = make_request(models, source, policy, sampling=_GREEDY, log_probabilities=1)
    return Work("exact, log-probabilities", request)


def _seeded(source: random.Random) -> dict[str, Any]:
    return {"temperature": 1.0, "seed": source.getrandbits(32)}


_KINDS = (
    _alone_greedy, _alone_seeded, _exact, _lossless, _coupled, _reproducible, _two_choices, _penalised, _ratio_of_one,
    _block_of_one, _ratio, _adasd, _log_probabilities,
)  # fmt: skip
# The byte tokenizer takes any text apart alike.
_TINY_KINDS = (_grammar,)
