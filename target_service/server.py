"""TargetService: one stream is one sequence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from torch import Tensor

from tandem.block_trees import read_tree
from tandem.faults import reported
from tandem.grammars import Grammars
from tandem.inference.engine import Engine
from tandem.progress import Progress
from tandem.rpc.errors import TandemError
from tandem.rpc.handshake import check_handshake
from tandem.telemetry.services import ModelTelemetry
from tandem.telemetry.sessions import Session, end_block
from tandem.v1 import model_pb2, sampling_pb2, target_pb2, target_pb2_grpc
from tandem.wire import (
    MOST_FEATURES,
    check_format,
    check_opening,
    constraint,
    full_row,
    load_message,
    noise_stream,
    row_message,
    sampling_params,
    state_bytes,
    timing_message,
)
from target_service.block_checks import candidate_rows, check_tree, ranks
from target_service.messages import top_message, verified_message
from target_service.session import TargetSession
from target_service.spec import Proposal, RowFormat, SessionSpec
from target_service.verification import Rule

_MOST_TOP = 20

_RULES = {
    sampling_pb2.VERIFICATION_RULE_GREEDY: Rule.GREEDY,
    sampling_pb2.VERIFICATION_RULE_RATIO: Rule.RATIO,
    sampling_pb2.VERIFICATION_RULE_BLOCK: Rule.BLOCK,
    sampling_pb2.VERIFICATION_RULE_COUPLED: Rule.COUPLED,
}


class TargetServicer(target_pb2_grpc.TargetServiceServicer):
    """Serves one model through one engine."""

    def __init__(
        self,
        engine: Engine,
        info: model_pb2.ModelInfo,
        grammars: Grammars,
        telemetry: ModelTelemetry | None = None,
    ) -> None:
        """telemetry: its own where there is none."""
        self._engine = engine
        self._info = info
        self._grammars = grammars
        self._telemetry = telemetry or ModelTelemetry("target")
        self._telemetry.serves(info, engine.load)
        if self._telemetry.is_read:
            engine.attach(self._telemetry)
        self._stale_messages = 0

    async def Verify(
        self, request_iterator: AsyncIterator[target_pb2.VerifyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[target_pb2.VerifyResponse]:
        first = await anext(request_iterator, None)
        if first is None:
            return
        if first.WhichOneof("kind") != "open":
            raise TandemError.unexpected_message("the first message of a stream must be `open`")
        with self._telemetry.session(first.open.request_id) as seen, reported("target"):
            check_handshake(first.open.handshake, self._info, side="target")
            spec = await self._spec(first.open)
            sequence = await self._engine.open(
                first.open.priority, tokens=len(spec.tokens), within=context.time_remaining()
            )
            seen.opened()
            session = TargetSession(
                self._engine, sequence, spec, self._info.vocabulary_size, self._info.features.width
            )
            try:
                yield target_pb2.VerifyResponse(opened=target_pb2.VerifyOpened(model=self._info))
                progress = Progress(
                    list(spec.tokens), self._info.vocabulary_size, self._info.context_length, spec.prompt_length
                )
                async for request in request_iterator:
                    async with aclosing(self._answer(request, session, progress, seen)) as responses:
                        async for response in responses:
                            yield response
            finally:
                await session.close()

    async def _spec(self, message: target_pb2.VerifyOpen) -> SessionSpec:
        tokens = message.prompt_token_ids
        if len(tokens) > self._info.context_length:
            raise TandemError.prompt_too_long(
                len(tokens), self._info.context_length, field="open.prompt_token_ids"
            )
        check_opening(message, path="open", vocabulary_size=self._info.vocabulary_size)
        if message.log_probabilities > _MOST_TOP:
            raise TandemError.invalid_field(
                "open.log_probabilities", f"must be at most {_MOST_TOP}, not {message.log_probabilities}"
            )
        rule = _RULES[message.verification]
        if message.drafts and rule.draws_residuals and not message.format.max_entries:
            raise TandemError.invalid_field(
                "open.format.max_entries", "must be at least 1 for a draft under ratio and block"
            )
        return SessionSpec(
            tokens=tuple(tokens),
            prompt_length=message.prompt_length or len(tokens),
            sampling=sampling_params(message.sampling),
            rule=rule,
            noise=noise_stream(message.random_key, path="open.random_key"),
            stop_token_ids=frozenset(message.stop_token_ids),
            max_entries=message.format.max_entries,
            mass=message.format.mass or 1.0,
            constraint=await constraint(message, self._grammars, path="open"),
            log_probabilities=message.log_probabilities if message.HasField("log_probabilities") else None,
            drafts=message.drafts,
        )

    async def _answer(
        self, request: target_pb2.VerifyRequest, session: TargetSession, progress: Progress, seen: Session
    ) -> AsyncGenerator[target_pb2.VerifyResponse]:
        kind = request.WhichOneof("kind")
        if kind == "resolve":
            yield target_pb2.VerifyResponse(resolved=await self._resolve(request.resolve, session, progress))
        elif kind not in ("round", "generate"):
            raise TandemError.unexpected_message(f"`{kind}` is not allowed on an open stream")
        elif progress.is_stale(getattr(request, kind).round):
            self._stale_messages += 1
        elif kind == "round":
            yield target_pb2.VerifyResponse(verified=await self._verify(request.round, session, progress, seen))
        else:
            async with aclosing(self._generate(request.generate, session, progress, seen)) as responses:
                async for response in responses:
                    yield response

    async def _verify(
        self, message: target_pb2.VerifyRound, session: TargetSession, progress: Progress, seen: Session
    ) -> target_pb2.VerifiedBlock:
        span = seen.block()
        candidates = list(message.block.token_ids)
        tree = read_tree(message.block.parents, path="round.block.parents")
        check_tree(tree, session)
        rows = candidate_rows(message.block, session.spec.rule, tree, self._info.vocabulary_size)
        wanted = _wanted(message, session.spec, "round.format")
        self._check_features(message.features, "round.features")
        # A tree is verified whole: what a budget leaves off would have to be whole branches.
        scored = ranks(message.block, session.spec.rule) if self._engine.chooses and not len(tree) else ()
        cached = _advance(progress, message, "round.continuation")
        if message.block.position != progress.position:
            raise TandemError.prefix_mismatch(
                "round.block does not start where the text ends",
                expected=progress.position,
                received=message.block.position,
            )
        proposal = Proposal(candidates, rows, wanted, tree, scored, message.round, message.features)
        verified = await session.verify(progress.tokens, cached, proposal)
        progress.candidates, progress.tree = candidates[: verified.considered], tree
        end_block(span, message.round, len(progress.candidates), verified.timing)
        answer = verified_message(message.round, progress.position, verified)
        if verified.considered < len(candidates):
            answer.considered = verified.considered
        return answer

    def _check_features(self, count: int, path: str) -> None:
        """Raises TandemError NOT_SUPPORTED or INVALID_FIELD."""
        if count and not self._info.HasField("features"):
            raise TandemError.not_supported(path, f"{self._info.model_id} gives none")
        if count > MOST_FEATURES:
            raise TandemError.invalid_field(path, f"must be at most {MOST_FEATURES}, not {count}")

    async def _resolve(
        self, message: target_pb2.ResolveDistances, session: TargetSession, progress: Progress
    ) -> target_pb2.ResolvedDistances:
        if message.round != progress.round:
            raise TandemError.unexpected_message(
                f"the block of round {message.round} is gone; the last one is of round {progress.round}"
            )
        if len(message.rows) > len(progress.candidates):
            raise TandemError.invalid_field("resolve.rows", f"has more rows than {len(progress.candidates)} candidates")
        indices = [row.index for row in message.rows]
        if len(set(indices)) < len(indices):
            raise TandemError.invalid_field("resolve.rows", "names a candidate twice")
        for at, index in enumerate(indices):
            if index >= len(progress.candidates):
                raise TandemError.invalid_field(
                    f"resolve.rows[{at}].index",
                    f"{index} is not below the block's {len(progress.candidates)} candidates",
                )

        def rows() -> list[Tensor]:
            return [
                full_row(
                    row, path=f"resolve.rows[{at}].log_probabilities", vocabulary_size=self._info.vocabulary_size
                )
                for at, row in enumerate(message.rows)
            ]

        found = await session.resolve(indices, rows)
        return target_pb2.ResolvedDistances(
            round=message.round,
            indices=indices,
            distances=[distance for distance, _ in found],
            total_variations=[variation for _, variation in found],
        )

    async def _generate(
        self, message: target_pb2.Generate, session: TargetSession, progress: Progress, seen: Session
    ) -> AsyncGenerator[target_pb2.VerifyResponse]:
        if message.max_tokens < 1:
            raise TandemError.invalid_field("generate.max_tokens", "must be at least 1")
        wanted = _wanted(message, session.spec, "generate.format")
        self._check_features(message.features, "generate.features")
        cached = _advance(progress, message, "generate.continuation")
        room = self._info.context_length - progress.position
        if room < 1:
            raise TandemError.invalid_field("generate", "the context is full")
        last_position = progress.position + min(message.max_tokens, room) - 1
        tokens = list(progress.tokens)
        with seen.generation(message.round) as made:
            source = session.generate(
                tokens, cached, min(message.max_tokens, room), wanted, message.round, message.features
            )
            async with aclosing(source) as generated:
                async for token, timing in generated:
                    made.add(timing)
                    position = progress.position
                    progress.tokens.append(token.token_id)
                    is_last = position == last_position or token.token_id in session.spec.stop_token_ids
                    yield target_pb2.VerifyResponse(
                        generated=target_pb2.GeneratedToken(
                            round=message.round,
                            position=position,
                            token_id=token.token_id,
                            log_probability=token.log_probability,
                            entropy=token.entropy,
                            last=is_last,
                            distribution=row_message(token.row) if token.row is not None else None,
                            timing=timing_message(timing),
                            model_log_probability=token.model.log_probability if token.model else None,
                            top=top_message(token.model) if token.model and token.model.top_ids else None,
                            features=state_bytes(token.features),
                        )
                    )

    async def GetTargetModel(
        self, request: target_pb2.GetTargetModelRequest, context: grpc.aio.ServicerContext
    ) -> target_pb2.GetTargetModelResponse:
        return target_pb2.GetTargetModelResponse(model=self._info)

    async def GetTargetLoad(
        self, request: target_pb2.GetTargetLoadRequest, context: grpc.aio.ServicerContext
    ) -> target_pb2.GetTargetLoadResponse:
        return target_pb2.GetTargetLoadResponse(
            load=load_message(self._engine.load()), stale_messages=self._stale_messages
        )


def _wanted(message: target_pb2.VerifyRound | target_pb2.Generate, spec: SessionSpec, path: str) -> RowFormat:
    """What to send of p. Raises TandemError INVALID_FIELD."""
    if not message.HasField("format"):
        return spec.format
    if spec.drafts and spec.rule.draws_residuals:
        raise TandemError.invalid_field(path, "does not go with `drafts`: what is sent of p is the law of the text")
    check_format(message.format, path=path)
    return RowFormat(message.format.max_entries, message.format.mass or 1.0)


def _advance(progress: Progress, message: target_pb2.VerifyRound | target_pb2.Generate, path: str) -> int:
    """As `Progress.advance`; a target knows its own distributions and features."""
    for name in ("target_distributions", "target_features"):
        if getattr(message.continuation, name):
            raise TandemError.invalid_field(f"{path}.{name}", "is for a draft")
    return progress.advance(message.round, message.continuation, path=path)
