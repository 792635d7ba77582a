"""Completions of prompts, whichever way a caller has come: gRPC and HTTP say the same things to this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import replace

from orchestrator.account import Account, CommittedToken, ModelLogProbability
from orchestrator.admission import Admission, Ask, Place
from orchestrator.ahead import ahead
from orchestrator.conversation import tokenize_chat
from orchestrator.deadline import DEADLINE
from orchestrator.decoding import Committed, Decoder
from orchestrator.keys import CALLER, Caller
from orchestrator.outcome import noted
from orchestrator.replicas import Pair
from orchestrator.replicas.report import told, total
from orchestrator.request import DEFAULT_MAX_TOKENS, MOST_CHOICES, Plan, plan
from orchestrator.resuming import take_up
from orchestrator.settings import OrchestratorSettings
from orchestrator.shedding import Governor, Shed
from orchestrator.stack import Below, StacksByKey
from orchestrator.stopping import Experience, Experiences, StopRule
from orchestrator.text import TextStream
from orchestrator.upstream import Upstream
from orchestrator.watch import NOT_WORTH, OVERLOAD, Watch
from tandem.grammars import Grammars
from tandem.rpc.errors import TandemError
from tandem.rpc.sampling import check_token_ids
from tandem.rpc.unknown import check_known
from tandem.telemetry import Telemetry, spans
from tandem.telemetry.context import bind_request, bind_trace
from tandem.telemetry.tracing import Span
from tandem.tokenization import IncrementalDecoder, Tokenizer
from tandem.v1 import completion_pb2, model_pb2

#: Rounds that may wait for a slow caller; then decoding waits too.
_ROUNDS_AHEAD = 4
#: Bytes of a request that are worked on by a thread of their own.
_LARGE_REQUEST = 64 * 1024
#: Tokens of a resumed completion that are put back into text by such a thread.
_MANY_TOKENS = 512


class Completions:
    """Serves completions by the services that `upstream` reaches."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        upstream: Upstream,
        settings: OrchestratorSettings,
        telemetry: Telemetry | None = None,
    ) -> None:
        """telemetry: its own where there is none."""
        self._tokenizer = tokenizer
        self._grammars = Grammars(tokenizer)
        self._upstream = upstream
        self._settings = settings
        self._experiences = Experiences()
        self._stacks = StacksByKey()
        self._admission = Admission(
            settings.max_completions, settings.max_waiting, targets=lambda: upstream.count("target", "ready")
        )
        self._governor = Governor(lambda: self._admission.strain)
        self._under_way = 0
        self.telemetry = telemetry or Telemetry()
        self.telemetry.follow_replicas(upstream.count)
        self.telemetry.follow_line(lambda: self._admission.waiting)
        upstream.expect(
            model_pb2.ModelInfo(model_id=settings.tokenizer, tokenizer_fingerprint=tokenizer.fingerprint)
        )

    async def stream(
        self, request: completion_pb2.CompleteRequest, *, path: str = "", route: str = "grpc"
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        """All choices of a request, as they come. path: put before the names of fields; route: named in the metrics.

        Raises TandemError.
        """
        caller = CALLER.get()
        with self.telemetry.request(route, _is_late) as record, caller.completing(request, path):
            async with aclosing(self._stream(request, path, record.span, caller)) as responses:
                async for response in responses:
                    record.saw(response)
                    caller.take_generated(len(response.token_ids))
                    yield response

    async def _stream(
        self, request: completion_pb2.CompleteRequest, path: str, span: Span, caller: Caller
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        bind_request(request.request_id)
        with ExitStack() as places:
            let_in = places.enter_context(await self._admission.enter(_ask(request, caller)))
            pair = places.enter_context(
                await self._upstream.pair(speculates=not request.speculation.off, priority=request.priority)
            )
            below = Below(request, pair, self._upstream, self._experiences, self._stacks)
            experience = below.experience()  # also of a completion that another target takes over: few are
            plans = await self._plan(request, pair.target.model, path, caller, experience)
            caller.take_prompt(len(plans[0].tokens))
            bind_request(plans[0].request_id)
            span.set(request_id=plans[0].request_id)
            self._tell_models(pair)
            pairs = [pair, *(places.enter_context(pair.another()) for _ in plans[1:])]
            if request.return_prompt_token_ids and not request.HasField("resume"):
                yield completion_pb2.CompleteResponse(
                    request_id=plans[0].request_id, prompt_token_ids=plans[0].prompt
                )
            # The next round must not wait for the caller to be told of the last one.
            each = zip(plans, pairs, let_in, strict=True)
            sources = [self._choice(planned, own, place, experience, below, span) for planned, own, place in each]
            async with aclosing(ahead(sources, _ROUNDS_AHEAD)) as responses:
                async for response in responses:
                    yield response

    async def validate(self, request: completion_pb2.CompleteRequest, *, path: str = "") -> None:
        """Raises the TandemError that `stream` would of a request that cannot be taken; begins nothing."""
        # The experience of no target: nothing is drafted by it.
        await self._plan(request, await self._upstream.target_model(), path, CALLER.get(), Experience())

    async def once(
        self, request: completion_pb2.CompleteRequest, *, path: str = ""
    ) -> completion_pb2.CompleteOnceResponse:
        """The same, put together. Raises TandemError."""
        answer = completion_pb2.CompleteOnceResponse()
        async with aclosing(self.stream(request, path=path)) as responses:
            async for response in responses:
                answer.request_id = response.request_id
                answer.prompt_token_ids.extend(response.prompt_token_ids)
                while len(answer.more_choices) < response.choice:
                    answer.more_choices.add()
                choice = answer.more_choices[response.choice - 1] if response.choice else answer
                choice.text += response.text
                choice.token_ids.extend(response.token_ids)
                choice.tokens.extend(response.tokens)
                choice.log_probabilities.extend(response.log_probabilities)
                if response.HasField("finish"):
                    choice.finish.CopyFrom(response.finish)
        return answer

    async def models(self) -> completion_pb2.GetModelsResponse:
        """Raises TandemError where no target is there."""
        return completion_pb2.GetModelsResponse(
            target=await self._upstream.target_model(), draft=await self._upstream.draft_model()
        )

    async def load(self) -> completion_pb2.GetLoadResponse:
        targets, drafts = await self._upstream.loads()
        return completion_pb2.GetLoadResponse(
            completions=self._under_way,
            target=total(targets),
            draft=total(drafts),
            targets=[told(replica) for replica in targets],
            drafts=[told(replica) for replica in drafts],
        )

    async def check(self) -> None:
        """Raises TandemError where nothing can be completed now. The draft is not asked: nobody needs one."""
        await self._upstream.check()

    async def tokenize(self, request: completion_pb2.TokenizeRequest) -> completion_pb2.TokenizeResponse:
        """Raises TandemError."""
        check_known(request)
        kind = request.WhichOneof("input")
        if kind is None:
            raise TandemError.invalid_field("input", "is needed: set text or chat")

        def tokens() -> list[int]:
            if kind == "text":
                return self._tokenizer.encode(request.text)
            return tokenize_chat(request.chat, self._tokenizer, "chat")

        ids = await asyncio.to_thread(tokens) if request.ByteSize() > _LARGE_REQUEST else tokens()
        target = await self._upstream.target_model()
        return completion_pb2.TokenizeResponse(token_ids=ids, context_length=target.context_length)

    async def detokenize(self, request: completion_pb2.DetokenizeRequest) -> completion_pb2.DetokenizeResponse:
        """Raises TandemError."""
        check_known(request)
        check_token_ids(request.token_ids, path="token_ids", vocabulary_size=self._tokenizer.vocabulary_size)
        ids, skip = list(request.token_ids), request.skip_special_tokens
        if request.ByteSize() > _LARGE_REQUEST:
            text = await asyncio.to_thread(self._tokenizer.decode, ids, skip_special_tokens=skip)
        else:
            text = self._tokenizer.decode(ids, skip_special_tokens=skip)
        return completion_pb2.DetokenizeResponse(text=text)

    def _tell_models(self, pair: Pair) -> None:
        self.telemetry.works_with("target", pair.target.model)
        if pair.draft is not None:
            self.telemetry.works_with("draft", pair.draft.model)

    async def _plan(
        self,
        request: completion_pb2.CompleteRequest,
        target: model_pb2.ModelInfo,
        path: str,
        caller: Caller,
        experience: Experience,
    ) -> list[Plan]:
        def made() -> list[Plan]:
            return plan(
                request, self._tokenizer, target, grammars=self._grammars, path=path, experience=experience,
                has_middle=self._upstream.has_middle,
                most_prompt_tokens=self._settings.max_prompt_tokens, most_tokens=caller.limits.max_tokens,
            )  # fmt: skip

        # These may take a second, and others must not wait for it. The first log-probabilities build a vocabulary.
        slow = request.ByteSize() > _LARGE_REQUEST or request.HasField("grammar")
        if request.HasField("log_probabilities"):
            await asyncio.to_thread(self._grammars.token_bytes, 0)
        return await asyncio.to_thread(made) if slow else made()

    async def _choice(
        self, planned: Plan, pair: Pair, place: Place, experience: Experience, below: Below, request: Span
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        """Runs in a task of its own. request: the span above its own."""
        with below.middle(pair) as middle:
            async with aclosing(self._made(planned, pair, place, experience, below, middle, request)) as responses:
                async for response in responses:
                    yield response

    async def _made(
        self,
        planned: Plan,
        pair: Pair,
        place: Place,
        experience: Experience,
        below: Below,
        middle: tuple[Pair, StopRule] | None,
        request: Span,
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        span = request.child(spans.COMPLETION)
        bind_request(planned.request_id)
        if (headers := span.headers()) is not None:
            bind_trace(headers)
        text, had, is_over = await self._text(planned)
        account = Account(len(planned.prompt), had)
        speculates = planned.speculation is not None
        has_proposer = pair.draft is not None or middle is not None
        if planned.speculation is not None and not (self._upstream.has_draft or middle):  # no rule is ever in force
            planned = replace(planned, speculation=None)
        if planned.speculation is not None:
            account.draft_failures += not has_proposer  # to begin with; one that comes is used
            shed = self._governor.shed(planned.speculation, lambda: pair.target.replica)
            planned = replace(planned, speculation=shed)
        watch = Watch(self.telemetry, planned.speculation, speculates=speculates, span=span)
        if planned.prompt_text is not None:
            yield self._response(planned, text=planned.prompt_text)
        last = planned.resumed[had - 1] if had else None
        with noted(planned, account, watch, self._prompt_text(planned)) as outcome:
            with pair, place, self._counted(experience):
                decoder = Decoder(planned, pair, self._settings, account, watch, middle)
                begun = _no_rounds() if is_over else decoder.rounds()
                async with aclosing(place.timed(begun)) as rounds:
                    async for committed in rounds:
                        response = self._committed(planned, committed, text, account)
                        watch.alone(_why_alone(planned, committed), len(response.token_ids))
                        last = response.token_ids[-1]
                        yield response
                        if text.stopped_by:
                            break
                place.ended()
            below.learn(account)
            rest = text.flush()
            stopped = bool(text.stopped_by) or last in planned.stop_token_ids
            outcome.finish = completion_pb2.Finish(
                reason=completion_pb2.FINISH_REASON_STOP if stopped else completion_pb2.FINISH_REASON_LENGTH,
                stop=text.stopped_by,
                usage=account.usage(),
                # No draft has been asked: no rule was in force, a lossy one neither.
                speculation=account.speculation(planned.speculation if pair.draft or middle else None),
                seed=planned.seed,
            )
        yield self._response(planned, text=rest, finish=outcome.finish)

    async def _text(self, planned: Plan) -> tuple[TextStream, int, bool]:
        """With what the completion has already, of which so many tokens count; whether it ends with them."""
        text = TextStream(
            IncrementalDecoder(self._tokenizer),
            planned.stop,
            least_tokens=planned.min_tokens,
            include_stop=planned.include_stop,
        )
        is_long = len(planned.resumed) > _MANY_TOKENS
        return text, *(await asyncio.to_thread(take_up, planned, text) if is_long else take_up(planned, text))

    def _prompt_text(self, planned: Plan) -> Callable[[], str] | None:
        """For the log, where the operator asked for it."""
        if not self._settings.log_prompts:
            return None
        return lambda: self._tokenizer.decode(planned.prompt, skip_special_tokens=False)

    def _committed(
        self, planned: Plan, committed: Committed, text: TextStream, account: Account
    ) -> completion_pb2.CompleteResponse:
        """What one round adds, up to a stop text."""
        response = self._response(planned, round=committed.account)
        for token in committed.tokens:
            account.emitted(token)
            response.token_ids.append(token.token_id)
            # The token that ends the text is counted, its text (none, for most) is not shown.
            is_end = token.token_id in planned.stop_token_ids
            if not is_end:
                response.text += text.push(token.token_id)
            if planned.audit:
                response.tokens.append(token.to_message("" if is_end else text.piece))
            if token.model is not None:
                response.log_probabilities.append(self._log_probability(token, token.model))
            if text.stopped_by:
                break
        return response

    def _log_probability(
        self, token: CommittedToken, model: ModelLogProbability
    ) -> completion_pb2.TokenLogProbability:
        def message(token_id: int, value: float) -> completion_pb2.TokenLogProbability:
            return completion_pb2.TokenLogProbability(
                token_id=token_id, token=self._grammars.token_bytes(token_id), log_probability=value
            )

        found = message(token.token_id, model.value)
        found.top.extend(message(token_id, value) for token_id, value in model.top)
        return found

    def _response(self, planned: Plan, **fields: object) -> completion_pb2.CompleteResponse:
        return completion_pb2.CompleteResponse(request_id=planned.request_id, choice=planned.choice, **fields)  # type: ignore[arg-type]

    @contextmanager
    def _counted(self, experience: Experience) -> Iterator[None]:
        """How many are under way at a target decides what speculation costs the others there."""
        self._under_way += 1
        experience.costs.sessions += 1
        try:
            yield
        finally:
            experience.costs.sessions -= 1
            self._under_way -= 1


def _ask(request: completion_pb2.CompleteRequest, caller: Caller) -> Ask:
    """Before anything of it has been checked: what is wrong with it is said once there is time to look."""
    most = request.max_tokens or caller.limits.max_tokens or DEFAULT_MAX_TOKENS
    return Ask(min(max(1, request.n), MOST_CHOICES), most, request.priority, DEADLINE.get())


def _why_alone(planned: Plan, committed: Committed) -> str:
    """As the metrics have it."""
    rules = planned.speculation
    is_shed = rules is not None and isinstance(rules.stop, Shed) and rules.stop.is_alone
    return OVERLOAD if committed.alone == NOT_WORTH and is_shed else committed.alone


def _is_late() -> bool:
    """Whether the time of the request's caller is over."""
    return DEADLINE.get().is_over


async def _no_rounds() -> AsyncGenerator[Committed]:
    """Of a completion that is over when it is resumed."""
    return
    yield
