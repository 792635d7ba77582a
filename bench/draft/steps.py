"""What a step of the draft costs, with the drawing of its candidate, over a step of the target."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from draft_service.drafters.base import SequenceSpec
from draft_service.drafters.drawing import Drawn
from draft_service.drafters.growth import Growth, Voice, draw_next
from tandem.inference.runner import Block, ModelRunner, Sequence
from tandem.noise import NoiseStream
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.v1 import draft_pb2, sampling_pb2

CONTEXT = 256
#: Steps of the draft behind one of the target, as in a round: the first finds its weights gone from the processor's
#: cache.
DRAFTED = 4
#: What an orchestrator asks for under the ratio rule unless set otherwise.
_ENTRIES = 1024
_WARM_UP = 8


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds of one step of the target, and the mean of those of the draft behind it."""

    target: float
    draft: float

    @property
    def ratio(self) -> float:
        return self.draft / self.target


def measure(
    target: ModelRunner,
    draft: ModelRunner,
    *,
    temperature: float,
    repetitions: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Steps]:
    """Both at batch 1 behind CONTEXT tokens, in turn: a step of the target, then DRAFTED of the draft.

    temperature: 0 drafts for the greedy rule, which is sent ids alone; above it for the ratio rule, with the
    distributions that it is sent.
    """
    say(f"steps at temperature {temperature:g}")
    source = random.Random(seed)
    size = min(target.loaded.vocabulary_size, draft.loaded.vocabulary_size)
    text = [source.randrange(size) for _ in range(CONTEXT)]
    sequences = [runner.open() for runner in (target, draft)]
    try:
        for runner, sequence in zip((target, draft), sequences, strict=True):
            runner.forward([Block(sequence, text, 0)])
        found = []
        for number in range(_WARM_UP + repetitions):
            token = source.randrange(size)
            began = time.perf_counter()
            target.forward([Block(sequences[0], [token], 1)])
            between = time.perf_counter()
            growth = _growth(draft, text, temperature, number)
            for _ in range(DRAFTED):
                token = _step(draft, sequences[1], growth, token)
            ended = time.perf_counter()
            found.append(Steps(between - began, (ended - between) / DRAFTED))
            for sequence in sequences:
                sequence.truncate(CONTEXT)
        return found[_WARM_UP:]
    finally:
        for sequence in sequences:
            sequence.close()


def _step(draft: ModelRunner, sequence: Sequence, growth: Growth, token: int) -> int:
    logits = draft.forward([Block(sequence, [token], 1)])
    [drawn] = draw_next([(growth.voice, growth.wanted())], logits)
    if not isinstance(drawn, Drawn):
        raise ValueError("the draft's logits are no distribution")
    growth.take(drawn)
    return drawn.token_id


def _growth(draft: ModelRunner, text: list[int], temperature: float, attempt: int) -> Growth:
    rule = sampling_pb2.VERIFICATION_RULE_RATIO if temperature else sampling_pb2.VERIFICATION_RULE_GREEDY
    spec = SequenceSpec(
        tokens=tuple(text),
        prompt_length=len(text),
        sampling=SamplingParams(temperature=temperature),
        verification=rule,
        noise=NoiseStream(0),
        stop_token_ids=frozenset(),
        max_entries=_ENTRIES if temperature else 0,
        mass=1.0,
    )
    loaded = draft.loaded
    chain = SamplingChain(spec.sampling, loaded.vocabulary_size)
    voice = Voice(spec, chain, History(text), loaded.context_length, loaded.sayable)
    return Growth(voice, len(text) + 1, attempt, draft_pb2.DraftLimits(max_tokens=DRAFTED), foresees=False)
