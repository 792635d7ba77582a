"""Completions that were begun elsewhere: what they already have is taken up as if it had been made here.

Draws are keyed by seed and position, and both services are told where the prompt ends, so a completion that begins
with some of its tokens goes on as the one that made them would have. What is left for this file are the request's own
rules for such a beginning, and the text: a stop text or a character may lie across the break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.text import TextStream
from tandem.grammars import GrammarError, Grammars
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.v1 import completion_pb2, policy_pb2

if TYPE_CHECKING:
    from orchestrator.request import Plan


def check_resumable(request: completion_pb2.CompleteRequest, path: str) -> None:
    """What else a request with `resume` has to say. Raises TandemError INVALID_FIELD."""
    if request.n > 1:
        raise TandemError.invalid_field(f"{path}n", "must be 1 with resume, whose tokens are those of one completion")
    if request.sampling.temperature and not request.sampling.HasField("seed"):
        raise TandemError.invalid_field(f"{path}sampling.seed", "is needed with resume: that of the first part")


def resumed_tokens(
    request: completion_pb2.CompleteRequest, *, most: int, vocabulary: int, ends: frozenset[int], grammars: Grammars,
    path: str,
) -> tuple[int, ...]:  # fmt: skip
    """The tokens that the completion has. most: that it may have. ends: those that end a grammar's text; `grammars`
    checks the text where the request has one. Raises TandemError INVALID_FIELD."""
    ids, field = tuple(request.resume.ids), f"{path}resume.ids"
    check_token_ids(ids, path=field, vocabulary_size=vocabulary)
    if len(ids) > most:
        raise TandemError.invalid_field(field, f"has {len(ids)} tokens; max_tokens and the context allow {most}")
    if ids and request.HasField("grammar"):
        try:
            grammars.matcher(request.grammar, ends).masks(ids, ())
        except GrammarError as error:
            raise TandemError.invalid_field(field, str(error)) from error
    return ids


def spent(policy: policy_pb2.AcceptPolicy) -> policy_pb2.AcceptPolicy:
    """The policy for the rest of a completion. What the first part used of its budget nobody knows any more, so that
    nothing is left of it: the whole keeps to it."""
    rest = policy_pb2.AcceptPolicy()
    rest.CopyFrom(policy)
    rule = rest.WhichOneof("rule")
    if rule == "named":
        if "lossy_budget" in rest.named.options:
            rest.named.options["lossy_budget"] = 0.0
    elif rule is not None:
        options = getattr(rest, rule)
        if "lossy_budget" in options.DESCRIPTOR.fields_by_name and options.HasField("lossy_budget"):
            options.lossy_budget = 0.0
    return rest


def take_up(planned: Plan, text: TextStream) -> tuple[int, bool]:
    """Puts what the completion has into `text`; what that gives out was shown where it was made.

    Returns how many of its tokens count, and whether it ends with them.
    """
    for count, token in enumerate(planned.resumed, 1):
        if token in planned.stop_token_ids:
            return count, True
        text.push(token)
        if text.stopped_by:
            return count, True
    return len(planned.resumed), len(planned.resumed) >= planned.max_tokens
