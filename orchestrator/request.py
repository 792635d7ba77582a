"""From a CompleteRequest to what the decoding loop works on; bad input is refused here, with its field."""

from __future__ import annotations

import math
import secrets
import uuid
from dataclasses import dataclass, replace

from orchestrator.acceptance import AcceptRule, Verification
from orchestrator.conversation import tokenize_chat
from orchestrator.look_ahead.learnt import Learnt
from orchestrator.policy import build_accept_rule, build_stop_rule, check_stack, most_branches
from orchestrator.resuming import check_resumable, resumed_tokens, spent
from orchestrator.stopping import Experience, Goodput, StopRule
from orchestrator.trees.building import build_tree_rule
from orchestrator.trees.growing import TreeRule
from tandem.grammars import GrammarError, Grammars
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_priority, check_sampling, check_token_ids
from tandem.rpc.unknown import check_known
from tandem.tokenization import Tokenizer
from tandem.v1 import completion_pb2, grammar_pb2, model_pb2, sampling_pb2

DEFAULT_MAX_TOKENS = 1024
_MAX_STOPS = 16
_MAX_REQUEST_ID = 128
MOST_CHOICES = 64
_MOST_LOG_PROBABILITIES = 20


@dataclass(frozen=True, slots=True)
class Speculation:
    """The two rules of one completion; their state lives as long as it. ahead: what the draft looks ahead by; None
    where it is not to. tree: what the shape of blocks is chosen by; None where they are no trees."""

    stop: StopRule
    accept: AcceptRule
    ahead: Learnt | None = None
    tree: TreeRule | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One completion of a validated request. choice: which of its n; prompt_text: set where it is to be shown.
    resumed: tokens that it has already, made elsewhere; max_tokens and min_tokens count them.

    log_probabilities: how many of the likeliest tokens to name beside each; None for no log-probabilities.
    """

    request_id: str
    choice: int
    prompt: tuple[int, ...]
    prompt_text: str | None
    max_tokens: int
    min_tokens: int
    sampling: sampling_pb2.SamplingParams
    seed: int
    speculation: Speculation | None
    stop: tuple[str, ...]
    include_stop: bool
    stop_token_ids: frozenset[int]
    grammar: grammar_pb2.Grammar | None
    grammar_end_token_ids: frozenset[int]
    log_probabilities: int | None
    priority: int
    audit: bool
    resumed: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that is there when decoding begins."""
        return self.prompt + self.resumed

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0


def plan(
    request: completion_pb2.CompleteRequest,
    tokenizer: Tokenizer,
    target: model_pb2.ModelInfo,
    *,
    grammars: Grammars | None = None,
    path: str = "",
    experience: Experience | None = None,
    has_middle: bool = False,
    most_prompt_tokens: int | None = None,
    most_tokens: int | None = None,
) -> list[Plan]:
    """Checks every field of `request`; a plan for each of its n completions.

    grammars: the tokenizer's. path: put before field names, as `completion.`. experience: what completions have learnt
    together; None to start anew. has_middle: whether there is to be a middle model. most_prompt_tokens: that a prompt
    may have, where the context does not say it. most_tokens: to generate where the request does not say how many.
    Raises TandemError INVALID_FIELD, PROMPT_TOO_LONG or NOT_SUPPORTED.
    """
    check_known(request, path=path)
    vocabulary = target.vocabulary_size
    prompt = _prompt(request, tokenizer, vocabulary, path)
    context = target.context_length or 2**31
    if len(prompt) + 1 > context:
        raise TandemError.prompt_too_long(len(prompt), context, field=f"{path}{request.WhichOneof('prompt')}")
    if most_prompt_tokens is not None and len(prompt) > most_prompt_tokens:
        field = f"{path}{request.WhichOneof('prompt')}"
        raise TandemError.prompt_over_limit(len(prompt), most_prompt_tokens, field=field)
    check_sampling(request.sampling, path=f"{path}sampling", vocabulary_size=vocabulary)
    check_token_ids(request.stop_token_ids, path=f"{path}stop_token_ids", vocabulary_size=vocabulary)
    check_priority(request.priority, path=f"{path}priority")
    ends = frozenset(target.end_token_ids) | tokenizer.end_token_ids
    stop_tokens = frozenset(request.stop_token_ids)
    if not request.ignore_end_tokens:
        stop_tokens |= ends
    grammars = grammars or Grammars(tokenizer)
    has_grammar = _check_grammar(request, grammars, ends, path)
    max_tokens = _max_tokens(request, path, most_tokens)
    is_resumed, most = request.HasField("resume"), min(max_tokens, context - len(prompt))
    if is_resumed:
        check_resumable(request, path)
    has_seed = request.sampling.HasField("seed")
    first = Plan(
        request_id=_request_id(request, path),
        choice=0,
        prompt=prompt,
        prompt_text=_prompt_text(request, prompt, tokenizer) if request.echo and not is_resumed else None,
        max_tokens=most,
        min_tokens=_min_tokens(request, max_tokens, stop_tokens, vocabulary, path),
        sampling=request.sampling,
        seed=request.sampling.seed if has_seed else secrets.randbits(63),
        speculation=None,
        stop=_stops(request, path),
        include_stop=request.include_stop,
        stop_token_ids=stop_tokens,
        grammar=request.grammar if has_grammar else None,
        grammar_end_token_ids=ends if has_grammar else frozenset(),
        log_probabilities=_log_probabilities(request, path),
        priority=request.priority,
        audit=request.audit,
        resumed=resumed_tokens(
            request, most=most, vocabulary=vocabulary, ends=ends, grammars=grammars, path=path
        ),
    )
    return [
        replace(first, choice=choice, speculation=_speculation(request, path, experience, has_middle))
        for choice in range(_choices(request, path))
    ]


def _prompt(
    request: completion_pb2.CompleteRequest, tokenizer: Tokenizer, vocabulary: int, path: str
) -> tuple[int, ...]:
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise TandemError.invalid_field(f"{path}prompt", "is needed: set text, tokens or chat")
    if kind == "text":
        ids = tokenizer.encode(request.text)
        if not ids:
            raise TandemError.invalid_field(f"{path}text", "is empty")
    elif kind == "tokens":
        ids = list(request.tokens.ids)
        if not ids:
            raise TandemError.invalid_field(f"{path}tokens.ids", "is empty")
        check_token_ids(ids, path=f"{path}tokens.ids", vocabulary_size=vocabulary)
    else:
        ids = tokenize_chat(request.chat, tokenizer, f"{path}chat")
    return tuple(ids)


def _prompt_text(request: completion_pb2.CompleteRequest, prompt: tuple[int, ...], tokenizer: Tokenizer) -> str:
    return request.text or tokenizer.decode(prompt, skip_special_tokens=False)


def _max_tokens(request: completion_pb2.CompleteRequest, path: str, most: int | None) -> int:
    if not request.HasField("max_tokens"):
        return min(DEFAULT_MAX_TOKENS, most or DEFAULT_MAX_TOKENS)
    if request.max_tokens < 1:
        raise TandemError.invalid_field(f"{path}max_tokens", f"must be at least 1, not {request.max_tokens}")
    return request.max_tokens


def _min_tokens(
    request: completion_pb2.CompleteRequest, max_tokens: int, stop_tokens: frozenset[int], vocabulary: int, path: str
) -> int:
    least, field = request.min_tokens, f"{path}min_tokens"
    if not 0 <= least <= max_tokens:
        raise TandemError.invalid_field(field, f"must lie in [0, max_tokens = {max_tokens}], not {least}")
    if least:
        bias = request.sampling.logit_bias
        forbidden = stop_tokens | {token for token in bias if bias[token] == -math.inf}
        if len(forbidden) >= vocabulary:
            raise TandemError.invalid_field(field, "leaves no token: all others are forbidden by sampling.logit_bias")
    return least


def _check_grammar(
    request: completion_pb2.CompleteRequest, grammars: Grammars, ends: frozenset[int], path: str
) -> bool:
    """Whether there is one. What could leave no token that may follow is refused beside it."""
    if not request.HasField("grammar"):
        return False
    if not ends:
        raise TandemError.not_supported(f"{path}grammar", "the model has no token that ends a text")
    if request.min_tokens:
        raise TandemError.invalid_field(f"{path}min_tokens", "does not go with a grammar")
    if request.ignore_end_tokens:
        raise TandemError.invalid_field(f"{path}ignore_end_tokens", "does not go with a grammar, which ends the text")
    if -math.inf in request.sampling.logit_bias.values():
        raise TandemError.invalid_field(f"{path}sampling.logit_bias", "cannot forbid a token beside a grammar")
    try:
        grammars.check(request.grammar)
    except GrammarError as error:
        raise TandemError.invalid_field(f"{path}grammar.{error.field}", str(error)) from error
    return True


def _choices(request: completion_pb2.CompleteRequest, path: str) -> int:
    if not request.HasField("n"):
        return 1
    if not 1 <= request.n <= MOST_CHOICES:
        raise TandemError.invalid_field(f"{path}n", f"must lie in [1, {MOST_CHOICES}], not {request.n}")
    if request.n > 1 and request.sampling.temperature == 0:
        raise TandemError.invalid_field(f"{path}n", "must be 1 at temperature 0: all would be the same")
    return request.n


def _log_probabilities(request: completion_pb2.CompleteRequest, path: str) -> int | None:
    if not request.HasField("log_probabilities"):
        return None
    wanted = request.log_probabilities
    if not 0 <= wanted <= _MOST_LOG_PROBABILITIES:
        raise TandemError.invalid_field(
            f"{path}log_probabilities", f"must lie in [0, {_MOST_LOG_PROBABILITIES}], not {wanted}"
        )
    return wanted


def _speculation(
    request: completion_pb2.CompleteRequest, path: str, experience: Experience | None, has_middle: bool
) -> Speculation | None:
    policy, where = request.speculation, f"{path}speculation"
    # Built in either case: a policy that says both `off` and a rule is refused, not half obeyed.
    if policy.off:
        for field in ("stop", "accept", "look_ahead", "tree", "stack"):
            if policy.HasField(field):
                raise TandemError.invalid_field(f"{where}.{field}", "must be unset where speculation is off")
        return None
    check_stack(request, path=where, has_middle=has_middle)
    greedy = request.sampling.temperature == 0
    asked = spent(policy.accept) if request.resume.ids else policy.accept
    accept = build_accept_rule(asked, greedy=greedy, path=f"{where}.accept")
    key, experience = (accept.name, greedy), experience or Experience()
    stop = build_stop_rule(policy.stop, path=f"{where}.stop", experience=experience, key=key)
    matches = accept.verification(greedy) in (Verification.GREEDY, Verification.COUPLED)
    tree = build_tree_rule(
        policy, stop, accept, experience=experience, key=key, is_shared=matches,
        has_grammar=request.HasField("grammar"), path=where,
    )  # fmt: skip
    if tree is not None:
        return Speculation(stop, accept, tree=tree)
    ahead = Learnt(
        # Its own: what the rule `goodput` learns is of its own candidates.
        curve=experience.own_curve(("look_ahead", *key)),
        corrections=experience.shares(key, is_shared=matches),
        most_branches=most_branches(policy, path=where),
        # Under the others a seed's text depends on the lengths of blocks, which it should have to itself.
        may_shorten=isinstance(stop, Goodput) or (matches and not accept.lossy),
    )
    return Speculation(stop, accept, ahead)


def _stops(request: completion_pb2.CompleteRequest, path: str) -> tuple[str, ...]:
    if len(request.stop) > _MAX_STOPS:
        raise TandemError.invalid_field(f"{path}stop", f"has {len(request.stop)} texts; at most {_MAX_STOPS}")
    for index, text in enumerate(request.stop):
        if not text:
            raise TandemError.invalid_field(f"{path}stop[{index}]", "is empty")
    return tuple(request.stop)


def _request_id(request: completion_pb2.CompleteRequest, path: str) -> str:
    name = request.request_id
    if not name:
        return f"cmpl-{uuid.uuid4().hex[:24]}"
    if len(name) > _MAX_REQUEST_ID or not (name.isascii() and name.isprintable()):
        raise TandemError.invalid_field(
            f"{path}request_id", f"must be at most {_MAX_REQUEST_ID} printable ASCII characters"
        )
    return name
