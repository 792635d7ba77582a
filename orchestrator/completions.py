"""Completions of prompts, whichever way a caller has come: gRPC and HTTP say the same things to this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from orchestrator.account import Account, CommittedToken, ModelLogProbability
from orchestrator.ahead import ahead
from orchestrator.conversation import tokenize_chat
from orchestrator.decoding import Committed, Decoder
from orchestrator.request import Plan, plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Experience
from orchestrator.text import TextStream
from orchestrator.upstream import Upstream
from tandem.grammars import Grammars
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair
from tandem.rpc.sampling import check_token_ids
from tandem.rpc.unknown import check_known
from tandem.telemetry import Telemetry
from tandem.tokenization import IncrementalDecoder, Tokenizer
from tandem.v1 import completion_pb2, model_pb2

#: Rounds that may wait for a slow caller; then decoding waits too.
_ROUNDS_AHEAD = 4
#: Bytes of a request that are worked on by a thread of their own.
_LARGE_REQUEST = 64 * 1024


class Completions:
    """Serves completions by the two services that `upstream` reaches."""

    def __init__(self, tokenizer: Tokenizer, upstream: Upstream, settings: OrchestratorSettings) -> None:
        self._tokenizer = tokenizer
        self._grammars = Grammars(tokenizer)
        self._upstream = upstream
        self._settings = settings
        self._experience = Experience()
        self.telemetry = Telemetry()

    async def stream(
        self, request: completion_pb2.CompleteRequest, *, path: str = "", route: str = "grpc"
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        """All choices of a request, as they come. path: put before the names of fields; route: named in the metrics.

        Raises TandemError.
        """
        with self.telemetry.request(route) as record:
            async with aclosing(self._stream(request, path)) as responses:
                async for response in responses:
                    record.saw(response)
                    yield response

    async def _stream(
        self, request: completion_pb2.CompleteRequest, path: str
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        target = await self._target_model()
        plans = await self._plan(request, target, path)
        draft = await self._draft_model() if plans[0].speculation is not None else None
        if request.return_prompt_token_ids:
            yield completion_pb2.CompleteResponse(
                request_id=plans[0].request_id, prompt_token_ids=plans[0].prompt
            )
        # The next round must not wait for the caller to be told of the last one.
        sources = [self._choice(each, target, draft) for each in plans]
        async with aclosing(ahead(sources, _ROUNDS_AHEAD)) as responses:
            async for response in responses:
                yield response

    async def validate(self, request: completion_pb2.CompleteRequest, *, path: str = "") -> None:
        """Raises the TandemError that `stream` would of a request that cannot be taken; begins nothing."""
        await self._plan(request, await self._target_model(), path)

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
        return completion_pb2.GetModelsResponse(target=await self._target_model(), draft=await self._draft_model())

    async def load(self) -> completion_pb2.GetLoadResponse:
        target, draft = await self._upstream.loads()
        return completion_pb2.GetLoadResponse(
            completions=self._experience.costs.sessions, target=target, draft=draft
        )

    async def check(self) -> None:
        """Raises TandemError where nothing can be completed now. The draft is not asked: nobody needs one."""
        if await self._upstream.target_load() is None:
            raise TandemError.target_unavailable("the target service does not answer")
        await self._target_model()

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
        target = await self._target_model()
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

    async def _plan(
        self, request: completion_pb2.CompleteRequest, target: model_pb2.ModelInfo, path: str
    ) -> list[Plan]:
        def made() -> list[Plan]:
            return plan(
                request, self._tokenizer, target, grammars=self._grammars, path=path, experience=self._experience
            )

        # These may take a second, and others must not wait for it. The first log-probabilities build a vocabulary.
        slow = request.ByteSize() > _LARGE_REQUEST or request.HasField("grammar")
        if request.HasField("log_probabilities"):
            await asyncio.to_thread(self._grammars.token_bytes, 0)
        return await asyncio.to_thread(made) if slow else made()

    async def _choice(
        self, planned: Plan, target: model_pb2.ModelInfo, draft: model_pb2.ModelInfo | None
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        account = Account(len(planned.prompt))
        if draft is None:  # no rule is in force then, a lossy one neither
            account.draft_failures += planned.speculation is not None and self._upstream.has_draft
            planned = replace(planned, speculation=None)
        decoder = Decoder(planned, self._upstream, (target, draft), self._settings, account)
        text = TextStream(
            IncrementalDecoder(self._tokenizer),
            planned.stop,
            least_tokens=planned.min_tokens,
            include_stop=planned.include_stop,
        )
        if planned.prompt_text is not None:
            yield self._response(planned, text=planned.prompt_text)
        last: int | None = None
        async with self._counted(), aclosing(decoder.rounds()) as rounds:
            async for committed in rounds:
                response = self._committed(planned, committed, text, account)
                last = response.token_ids[-1]
                yield response
                if text.stopped_by:
                    break
        rest = text.flush()
        stopped = bool(text.stopped_by) or last in planned.stop_token_ids
        finish = completion_pb2.Finish(
            reason=completion_pb2.FINISH_REASON_STOP if stopped else completion_pb2.FINISH_REASON_LENGTH,
            stop=text.stopped_by,
            usage=account.usage(),
            speculation=account.speculation(planned.speculation),
            seed=planned.seed,
        )
        yield self._response(planned, text=rest, finish=finish)

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

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[None]:
        """How many are under way decides what speculation costs the others."""
        self._experience.costs.sessions += 1
        try:
            yield
        finally:
            self._experience.costs.sessions -= 1

    async def _target_model(self) -> model_pb2.ModelInfo:
        """Raises TandemError where no target is there or its tokenizer is not the orchestrator's."""
        target = await self._upstream.target_model()
        own = model_pb2.ModelInfo(
            model_id=self._settings.tokenizer, tokenizer_fingerprint=self._tokenizer.fingerprint
        )
        try:
            check_pair(draft=own, target=target)
        except TandemError as error:
            self._upstream.forget("target")  # it may come back with another model
            error.message = (
                f"the orchestrator's tokenizer, {own.model_id}, is not that of the target, {target.model_id};"
                " start it with the target's as --tokenizer"
            )
            raise
        return target

    async def _draft_model(self) -> model_pb2.ModelInfo | None:
        """The draft's model; None where none is configured or none is there: the target goes on alone."""
        if not self._upstream.has_draft:
            return None
        try:
            return await self._upstream.draft_model()
        except TandemError as error:
            if error.reason in ("TOKENIZER_MISMATCH", "PROTOCOL_MISMATCH"):
                raise
            return None
