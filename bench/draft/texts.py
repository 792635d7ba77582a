"""What the target writes, greedily and at temperature 1, and what both models say along it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.prompts import Prompt
from tandem.gumbel import Counters, gumbel_argmax_batch
from tandem.inference.runner import Block, ModelRunner
from tandem.noise import NoiseStream
from tandem.selection import argmax
from tandem.tokenization import Tokenizer

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """prompt: up to where the answer begins."""

    dataset: str
    prompt: Sequence[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """tokens: at least one; the last one may end the text."""

    asked: Asked
    tokens: Sequence[int]


def asked(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[Asked]:
    """Prompts as token ids: chats by the model's template, where it has one and they are to be chats."""
    found = []
    for prompt in prompts:
        if prompt.raw or not tokenizer.has_chat_template:
            ids = tokenizer.encode(prompt.text)
        else:
            ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])
        found.append(Asked(prompt.dataset, ids))
    return found


def answers(
    runner: ModelRunner,
    questions: Sequence[Asked],
    *,
    sampled: bool,
    max_tokens: int,
    ends: Collection[int],
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Answer]:
    """The model's own answers, of `max_tokens` or up to their end: what would follow that is nobody's text.

    sampled: at temperature 1, with noise of (seed, prompt, position); greedy otherwise.
    """
    found: list[Answer] = []
    for start in range(0, len(questions), _BATCH):
        say(f"{'sampled' if sampled else 'greedy'} answers, {start} of {len(questions)}")
        streams = [NoiseStream(seed, index) for index in range(start, min(start + _BATCH, len(questions)))]
        found += _batch(runner, questions[start : start + _BATCH], streams if sampled else None, max_tokens, ends)
    return found


def _batch(
    runner: ModelRunner,
    questions: Sequence[Asked],
    streams: Sequence[NoiseStream] | None,
    max_tokens: int,
    ends: Collection[int],
) -> list[Answer]:
    def next_tokens(rows: list[Tensor], which: Sequence[int]) -> list[int]:
        logits = torch.cat(rows)[:, : runner.loaded.vocabulary_size]
        if streams is None:
            return argmax(logits).tolist()
        positions = [len(questions[at].prompt) + len(texts[at]) for at in which]
        counters = Counters.of([streams[at] for at in which], positions)
        return gumbel_argmax_batch(logits.log_softmax(-1), counters, forbids=False).tolist()

    texts: list[list[int]] = [[] for _ in questions]
    sequences = [runner.open() for _ in questions]
    try:
        for at, (sequence, question) in enumerate(zip(sequences, questions, strict=True)):
            rows = runner.forward([Block(sequence, question.prompt, 1)])
            texts[at] += next_tokens(rows, [at])
        for _ in range(max_tokens - 1):
            going = [at for at, text in enumerate(texts) if text[-1] not in ends]
            if not going:
                break
            blocks = [Block(sequences[at], [texts[at][-1]], 1) for at in going]
            for at, token in zip(going, next_tokens(runner.forward(blocks), going), strict=True):
                texts[at].append(token)
    finally:
        for sequence in sequences:
            sequence.close()
    return [Answer(question, text) for question, text in zip(questions, texts, strict=True)]


def rows_along(runner: ModelRunner, answer: Answer) -> Tensor:
    """What the model says at each place of the answer: logits fp32 [tokens, V]."""
    sequence = runner.open()
    try:
        block = Block(sequence, [*answer.asked.prompt, *answer.tokens[:-1]], len(answer.tokens))
        return runner.forward([block])[0][:, : runner.loaded.vocabulary_size]
    finally:
        sequence.close()


def pairs_along(target: ModelRunner, draft: ModelRunner, given: Sequence[Answer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of both, answer by answer."""
    for answer in given:
        yield rows_along(target, answer), rows_along(draft, answer)
