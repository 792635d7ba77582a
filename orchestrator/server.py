"""CompletionService: validates, decodes, and turns tokens into text for the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import grpc

from orchestrator.account import Account, CommittedToken
from orchestrator.ahead import ahead
from orchestrator.decoding import Decoder
from orchestrator.request import Plan, plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.stopping import Experience
from orchestrator.text import TextStream
from orchestrator.upstream import Upstream
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_pair
from tandem.tokenization import IncrementalDecoder, Tokenizer
from tandem.v1 import completion_pb2, completion_pb2_grpc, model_pb2

#: Rounds that may wait for a slow caller; then decoding waits too.
_ROUNDS_AHEAD = 4
#: Bytes of a request that are tokenised on a thread of their own.
_LARGE_REQUEST = 64 * 1024


class CompletionServicer(completion_pb2_grpc.CompletionServiceServicer):
    """Serves completions by the two services that `upstream` reaches."""

    def __init__(self, tokenizer: Tokenizer, upstream: Upstream, settings: OrchestratorSettings) -> None:
        self._tokenizer = tokenizer
        self._upstream = upstream
        self._settings = settings
        self._experience = Experience()

    async def Complete(
        self, request: completion_pb2.CompleteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        # The next round must not wait for the caller to be told of the last one.
        async with aclosing(ahead(self._complete(request), _ROUNDS_AHEAD)) as responses:
            async for response in responses:
                yield response

    async def CompleteOnce(
        self, request: completion_pb2.CompleteOnceRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.CompleteOnceResponse:
        answer = completion_pb2.CompleteOnceResponse()
        async with aclosing(self._complete(request.completion, path="completion.")) as responses:
            async for response in responses:
                answer.request_id = response.request_id
                answer.text += response.text
                answer.token_ids.extend(response.token_ids)
                answer.tokens.extend(response.tokens)
                if response.HasField("finish"):
                    answer.finish.CopyFrom(response.finish)
        return answer

    async def GetModels(
        self, request: completion_pb2.GetModelsRequest, context: grpc.aio.ServicerContext
    ) -> completion_pb2.GetModelsResponse:
        return completion_pb2.GetModelsResponse(target=await self._target_model(), draft=await self._draft_model())

    async def _complete(
        self, request: completion_pb2.CompleteRequest, *, path: str = ""
    ) -> AsyncGenerator[completion_pb2.CompleteResponse]:
        target = await self._target_model()
        if request.ByteSize() > _LARGE_REQUEST:  # it takes seconds, and others must not wait for it
            planned = await asyncio.to_thread(self._plan, request, target, path)
        else:
            planned = self._plan(request, target, path)
        account = Account(len(planned.prompt))
        draft = None
        if planned.speculation is not None:
            draft = await self._draft_model()
            account.draft_failures += draft is None and self._upstream.has_draft
        if draft is None:  # no rule is in force then, a lossy one neither
            planned = replace(planned, speculation=None)
        decoder = Decoder(planned, self._upstream, (target, draft), self._settings, account)
        text = TextStream(IncrementalDecoder(self._tokenizer), planned.stop)
        last: CommittedToken | None = None
        async with self._counted(), aclosing(decoder.rounds()) as rounds:
            async for committed in rounds:
                response = completion_pb2.CompleteResponse(request_id=planned.request_id)
                if committed.account is not None:
                    response.round.CopyFrom(committed.account)
                for token in committed.tokens:
                    account.emitted(token)
                    response.token_ids.append(token.token_id)
                    # The token that ends the text is counted, its text (none, for most) is not shown.
                    is_end = token.token_id in planned.stop_token_ids
                    if not is_end:
                        response.text += text.push(token.token_id)
                    if planned.audit:
                        response.tokens.append(token.to_message("" if is_end else text.piece))
                    last = token
                    if text.stopped_by:
                        break
                yield response
                if text.stopped_by:
                    break
        stopped = bool(text.stopped_by) or (last is not None and last.token_id in planned.stop_token_ids)
        rest = text.flush()
        yield completion_pb2.CompleteResponse(
            request_id=planned.request_id, text=rest, finish=self._finish(planned, account, text, stopped)
        )

    def _plan(self, request: completion_pb2.CompleteRequest, target: model_pb2.ModelInfo, path: str) -> Plan:
        return plan(request, self._tokenizer, target, path=path, experience=self._experience)

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[None]:
        """How many are under way decides what speculation costs the others."""
        self._experience.costs.sessions += 1
        try:
            yield
        finally:
            self._experience.costs.sessions -= 1

    def _finish(
        self, planned: Plan, account: Account, text: TextStream, stopped: bool
    ) -> completion_pb2.Finish:
        stopped = stopped or bool(text.stopped_by)
        return completion_pb2.Finish(
            reason=completion_pb2.FINISH_REASON_STOP if stopped else completion_pb2.FINISH_REASON_LENGTH,
            stop=text.stopped_by,
            usage=account.usage(),
            speculation=account.speculation(planned.speculation),
            seed=planned.seed,
        )

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
