"""What is asked for one shard: prompts turned into works of a batch, and their answers into samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch

from tandem.distil.prompts import own_turns
from tandem.distil.prompts.exclude import normalised
from tandem.distil.prompts.mixture import Mixture
from tandem.distil.prompts.source import PASSAGE, Prompt
from tandem.distil.recipe import Data
from tandem.distil.seeding import seed_of
from tandem.distil.shards import Sample
from tandem.distil.writing import Ask, Reply, Work
from tandem.tokenization import TokenizationError, Tokenizer

# A passage that was cut off ends after one of these.
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
# Of the tokens of a shard, by which it is full although some answers came out shorter than expected.
_ENOUGH = 0.85
# Prompts in a row of which none could be used, after which no more are tried.
_BARREN = 1000


class _DroppedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NothingToAskError(ValueError):
    """Prompts are all dropped; the message says why."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What is the same for all shards. prompt_tokens: most of a prompt. ends: tokens that end an answer."""

    mixture: Mixture
    tokenizer: Tokenizer
    data: Data
    seed: int
    prompt_tokens: int
    ends: frozenset[int]

    @property
    def turn_tokens(self) -> int:
        """Most of a turn that the target writes itself; 0 where it writes none, or none would fit."""
        own = self.mixture.own
        return 0 if own is None else max(0, min(own_turns.TURN_TOKENS, self.prompt_tokens - len(own.head)))


class ShardWorks:
    """The works of one shard, a function of the recipe and the shard's number alone.

    tokens: of finished answers. dropped: prompts that were not used, by reason: `excluded` for what they share with
    excluded texts, `repeated` in the shard, `long` for more tokens than are allowed, `unfit` for the chat template;
    of self-written ones also `endless` and `empty`. kinds: samples by kind of prompt.
    """

    def __init__(self, asking: Asking, shard: int) -> None:
        self._asking = asking
        self._shard = shard
        self._samples: list[tuple[int, Sample]] = []
        self._seen: set[str] = set()
        self._running = self._next = self._barren = 0
        self._is_full = False
        self.tokens = 0
        self.dropped: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    @property
    def samples(self) -> list[Sample]:
        """In the order of the prompts, not in that in which answers ended."""
        return [sample for _, sample in sorted(self._samples, key=lambda entry: entry[0])]

    def next_work(self) -> Work | None:
        """None once the works that are under way will fill the shard, about. Raises NothingToAskError."""
        data = self._asking.data
        ended = self._next - self._running
        expected = self.tokens / ended if self.tokens else data.answer_tokens  # of a work, those without an answer too
        # Once it is full a little less is enough: one more at a time would have the batch for itself.
        enough = data.shard_tokens * (_ENOUGH if self._is_full else 1)
        self._is_full = self._next > 0 and self.tokens + self._running * expected >= enough
        if self._is_full:
            return None
        if self._barren >= max(_BARREN, 4 * data.batch):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
            raise NothingToAskError(f"none of the last {self._barren} prompts could be used ({reasons})")
        number, self._next = self._next, self._next + 1
        return self._work(number)

    def _work(self, number: int) -> Work:
        self._running += 1
        self._barren += 1
        try:
            prompt = self._asking.mixture.draw(self._shard, number)
            if prompt is None:
                prompt = yield from self._own_turn(number)
            elif prompt.first:
                prompt = yield from self._with_passage(number, prompt)
            yield from self._answer(number, prompt, "answer", self._temperature(number))
        except _DroppedError as error:
            self.dropped[error.reason] += 1
        finally:
            self._running -= 1

    def _own_turn(self, number: int) -> Generator[Ask, Reply, Prompt]:
        own = self._asking.mixture.own
        assert own is not None
        limit = self._asking.turn_tokens
        reply = yield Ask(own.head, limit, own.ends, own_turns.TEMPERATURE, self._seed(number, "turn"))
        text = own.text(reply.token_ids)
        if text is None:
            raise _DroppedError("empty" if reply.token_ids[-1] in own.ends else "endless")
        return Prompt("self-written", text)

    def _with_passage(self, number: int, prompt: Prompt) -> Generator[Ask, Reply, Prompt]:
        """The prompt with the target's answer to its `first`, which is a sample, too."""
        temperatures = sorted(self._asking.data.temperatures)
        first = Prompt(prompt.kind, prompt.first, system=prompt.system)
        reply = yield from self._answer(number, first, "first", temperatures[len(temperatures) // 2])
        passage = self._passage(reply)
        if not passage:
            raise _DroppedError("empty")
        return replace(prompt, text=prompt.text.replace(PASSAGE, passage), first="")

    def _answer(
        self, number: int, prompt: Prompt, stage: str, temperature: float
    ) -> Generator[Ask, Reply, Reply]:
        token_ids = self._token_ids(prompt)
        asking = self._asking
        reply = yield Ask(token_ids, asking.data.answer_tokens, asking.ends, temperature, self._seed(number, stage))
        self._samples.append((number, _sample(token_ids, reply, temperature)))
        self.tokens += len(reply.token_ids)
        self.kinds[prompt.kind] += 1
        self._barren = 0
        return reply

    def _token_ids(self, prompt: Prompt) -> Sequence[int]:
        """Of what the target is given. Raises _DroppedError for what must not or cannot be asked."""
        tokenizer, texts = self._asking.tokenizer, (prompt.text, prompt.system)
        key = normalised(" ".join(texts))
        if any(map(self._asking.mixture.exclusion.covers, texts)):
            raise _DroppedError("excluded")
        if key in self._seen:
            raise _DroppedError("repeated")
        self._seen.add(key)
        if prompt.raw or not tokenizer.has_chat_template:
            token_ids = tokenizer.encode(prompt.text)
        else:
            messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
            try:
                token_ids = tokenizer.apply_chat_template([*messages, {"role": "user", "content": prompt.text}])
            except TokenizationError as error:
                raise _DroppedError("unfit") from error
        if not token_ids:
            raise _DroppedError("empty")
        if len(token_ids) > self._asking.prompt_tokens:
            raise _DroppedError("long")
        return token_ids

    def _passage(self, reply: Reply) -> str:
        """The text of an answer, without what was cut off behind its last sentence."""
        asking = self._asking
        ended = reply.token_ids[-1] in asking.ends
        text = asking.tokenizer.decode(reply.token_ids).strip()
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        return text[: ends[-1]] if ends and not ended else text

    def _temperature(self, number: int) -> float:
        temperatures = self._asking.data.temperatures
        return temperatures[number % len(temperatures)]

    def _seed(self, number: int, stage: str) -> int:
        return seed_of(self._asking.seed, stage, self._shard, number)


def _sample(token_ids: Sequence[int], reply: Reply, temperature: float) -> Sample:
    return Sample(
        tokens=torch.tensor([*token_ids, *reply.token_ids], dtype=torch.int32),
        prompt_length=len(token_ids),
        temperature=temperature,
        top_ids=reply.top_ids,
        top_log_probs=reply.top_log_probs,
    )
