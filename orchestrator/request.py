"""From a CompleteRequest to what the decoding loop works on; bad input is refused here, with its field."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass

from orchestrator.acceptance import AcceptRule
from orchestrator.policy import build_accept_rule, build_stop_rule
from orchestrator.stopping import Experience, StopRule
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_sampling, check_token_ids
from tandem.rpc.unknown import check_known
from tandem.tokenization import TokenizationError, Tokenizer
from tandem.v1 import completion_pb2, model_pb2, sampling_pb2

DEFAULT_MAX_TOKENS = 1024
_MAX_STOPS = 16
_MAX_REQUEST_ID = 128
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Speculation:
    """The two rules of one completion; their state lives as long as it."""

    stop: StopRule
    accept: AcceptRule


@dataclass(frozen=True, slots=True)
class Plan:
    """One validated request."""

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: sampling_pb2.SamplingParams
    seed: int
    speculation: Speculation | None
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    audit: bool

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0


def plan(
    request: completion_pb2.CompleteRequest,
    tokenizer: Tokenizer,
    target: model_pb2.ModelInfo,
    *,
    path: str = "",
    experience: Experience | None = None,
) -> Plan:
    """Checks every field of `request`. path: put before field names, as `completion.`. experience: what completions
    have learnt together; None to start anew.

    Raises TandemError INVALID_FIELD, PROMPT_TOO_LONG or NOT_SUPPORTED.
    """
    check_known(request, path=path)
    vocabulary = target.vocabulary_size
    prompt = _prompt(request, tokenizer, vocabulary, path)
    context = target.context_length or 2**31
    if len(prompt) + 1 > context:
        raise TandemError.prompt_too_long(len(prompt), context, field=f"{path}{request.WhichOneof('prompt')}")
    check_sampling(request.sampling, path=f"{path}sampling", vocabulary_size=vocabulary)
    check_token_ids(request.stop_token_ids, path=f"{path}stop_token_ids", vocabulary_size=vocabulary)
    stop_tokens = frozenset(request.stop_token_ids)
    if not request.ignore_end_tokens:
        stop_tokens |= frozenset(target.end_token_ids) | tokenizer.end_token_ids
    has_seed = request.sampling.HasField("seed")
    return Plan(
        request_id=_request_id(request, path),
        prompt=prompt,
        max_tokens=min(_max_tokens(request, path), context - len(prompt)),
        sampling=request.sampling,
        seed=request.sampling.seed if has_seed else secrets.randbits(63),
        speculation=_speculation(request, path, experience),
        stop=_stops(request, path),
        stop_token_ids=stop_tokens,
        audit=request.audit,
    )


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
        ids = _chat(request.chat, tokenizer, path)
    return tuple(ids)


def _chat(chat: completion_pb2.Chat, tokenizer: Tokenizer, path: str) -> list[int]:
    if not chat.messages:
        raise TandemError.invalid_field(f"{path}chat.messages", "is empty")
    for index, message in enumerate(chat.messages):
        where = f"{path}chat.messages[{index}]"
        if message.role not in _ROLES:
            raise TandemError.invalid_field(f"{where}.role", f"is {message.role!r}; must be one of {_ROLES}")
        if not message.content and message.role != "assistant":
            raise TandemError.invalid_field(f"{where}.content", "is empty")
    messages = [{"role": message.role, "content": message.content} for message in chat.messages]
    try:
        return tokenizer.apply_chat_template(messages)
    except TokenizationError as error:
        raise TandemError.invalid_field(f"{path}chat", str(error)) from error


def _max_tokens(request: completion_pb2.CompleteRequest, path: str) -> int:
    if not request.HasField("max_tokens"):
        return DEFAULT_MAX_TOKENS
    if request.max_tokens < 1:
        raise TandemError.invalid_field(f"{path}max_tokens", f"must be at least 1, not {request.max_tokens}")
    return request.max_tokens


def _speculation(
    request: completion_pb2.CompleteRequest, path: str, experience: Experience | None
) -> Speculation | None:
    policy, where = request.speculation, f"{path}speculation"
    # Built in either case: a policy that says both `off` and a rule is refused, not half obeyed.
    if policy.off:
        for field in ("stop", "accept"):
            if policy.HasField(field):
                raise TandemError.invalid_field(f"{where}.{field}", "must be unset where speculation is off")
        return None
    greedy = request.sampling.temperature == 0
    accept = build_accept_rule(policy.accept, greedy=greedy, path=f"{where}.accept")
    key = accept.name, greedy
    return Speculation(build_stop_rule(policy.stop, path=f"{where}.stop", experience=experience, key=key), accept)


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
