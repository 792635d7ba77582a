"""What a shard asks: driven by hand, with answers that a test makes up."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

from tandem.distil.conversations import Asking, ShardWorks
from tandem.distil.prompts.exclude import Exclusion
from tandem.distil.prompts.mixture import Mixture
from tandem.distil.prompts.own_turns import OwnTurns
from tandem.distil.prompts.source import Prompt
from tandem.distil.recipe import Data
from tandem.distil.writing import Ask, Reply, Work
from tests.support.tiny_target import TEMPLATE
from tests.support.tokens import byte_tokenizer, ids

_TOKENIZER = byte_tokenizer(template=TEMPLATE)


class _Fixed:
    """Gives the same prompts again and again."""

    def __init__(self, *prompts: Prompt) -> None:
        self._prompts = prompts

    def prompt(self, shard: int, number: int) -> Prompt:
        return self._prompts[number % len(self._prompts)]


class _Numbered:
    def prompt(self, shard: int, number: int) -> Prompt:
        return Prompt("numbered", f"prompt {number}")


def _works(mixture: Mixture, **data: object) -> ShardWorks:
    usual = {"answer_tokens": 100, "shard_tokens": 1000, "temperatures": (0.0, 0.7, 1.0), "batch": 4}
    asking = Asking(mixture, _TOKENIZER, Data.model_validate({**usual, **data}), 1, 300, frozenset({0}))
    return ShardWorks(asking, 2)


def _reply(token_ids: Sequence[int]) -> Reply:
    return Reply(token_ids, torch.zeros(len(token_ids), 1, dtype=torch.int32), torch.zeros(len(token_ids), 1))


def _started(works: ShardWorks) -> tuple[Work, Ask | None]:
    work = works.next_work()
    assert work is not None
    return work, next(work, None)


def _finish(work: Work, text: str, *, ended: bool = True) -> Ask | None:
    """What the work asks next."""
    try:
        return work.send(_reply([*ids(text), *([0] if ended else [])]))
    except StopIteration:
        return None


def test_a_passage_is_asked_for_and_then_asked_about() -> None:
    for text, ended, passage in (
        ("One. Two! Thr", False, "One. Two!"), ("One. Two", True, "One. Two"), ("no end", False, "no end"),
        ('He said "no." And th', False, 'He said "no."'), ("3.14 is pi. 2.71", False, "3.14 is pi."),
    ):  # fmt: skip
        works = _works(Mixture([_Fixed(Prompt("sum", "Shorten: {passage}", first="Write."))], 1))
        work, ask = _started(works)
        assert ask is not None and ask.token_ids == ids("user: Write.") + [0] + ids("assistant: ")
        assert ask.temperature == 0.7
        after = _finish(work, text, ended=ended)
        assert after is not None
        assert after.token_ids == ids(f"user: Shorten: {passage}") + [0] + ids("assistant: ")
        assert after.seed != ask.seed and after.temperature == 0.0
        assert _finish(work, "short") is None
        assert [len(sample.answer) for sample in works.samples] == [len(text) + ended, 6]
        assert works.kinds == {"sum": 2}


def test_an_empty_passage_is_dropped_but_its_answer_stays() -> None:
    works = _works(Mixture([_Fixed(Prompt("sum", "Shorten: {passage}", first="Write."))], 1))
    work, _ = _started(works)
    assert _finish(work, " \n") is None
    assert works.dropped == {"empty": 1} and len(works.samples) == 1


def test_a_turn_that_the_target_wrote_is_then_answered() -> None:
    own = OwnTurns.of(_TOKENIZER)
    excluded = "one two three four five six seven eight"
    works = _works(Mixture([], 1, own=own, own_share=1.0, exclusion=Exclusion([excluded])))
    seeds = set()
    for text, ended, reason in (
        (" Why is it so? ", True, None), ("never en", False, "endless"), ("...", True, "empty"),
        ("why is it so", True, "repeated"), (f"say {excluded}", True, "excluded"), ("x" * 290, True, "long"),
    ):  # fmt: skip
        work, ask = _started(works)
        assert ask is not None and ask.token_ids == own.head and ask.temperature == 1.0
        assert ask.limit == 128 and 0 in ask.ends
        seeds.add(ask.seed)
        after = _finish(work, text, ended=ended)
        if reason is None:
            assert after is not None and after.token_ids == ids("user: Why is it so?") + [0] + ids("assistant: ")
            _finish(work, "It is.")
        else:
            assert after is None and works.dropped[reason] == 1
    assert len(works.samples) == 1 and len(seeds) == 6


def test_raw_text_and_what_a_system_says_reach_the_target_as_they_are() -> None:
    works = _works(Mixture([_Fixed(Prompt("code", "def f():", raw=True), Prompt("q", "Hi", system="Be kind"))], 1))
    work, ask = _started(works)
    assert ask is not None and ask.token_ids == ids("def f():")
    _, ask = _started(works)
    assert ask is not None
    assert ask.token_ids == ids("system: Be kind") + [0] + ids("user: Hi") + [0] + ids("assistant: ")


def test_temperatures_are_taken_in_turn() -> None:
    works = _works(Mixture([_Numbered()], 1))
    assert [_started(works)[1].temperature for _ in range(6)] == [0.0, 0.7, 1.0] * 2  # type: ignore[union-attr]


def test_a_shard_is_filled_whatever_the_lengths_of_answers_are() -> None:
    for seed in range(60):
        random = Random(seed)
        works = _works(Mixture([_Numbered()], 1))
        running: list[Work] = []
        most, was_full, again = random.choice([5, 30, 100]), False, 0
        while True:
            while len(running) < 4 and (work := works.next_work()) is not None:
                again += was_full
                next(work)
                running.append(work)
            was_full = len(running) < 4
            if not running:
                break
            _finish(running.pop(random.randrange(len(running))), "x" * random.randint(1, most))
        assert 850 <= works.tokens <= 1000 + 2 * 101
        assert again == 0  # nothing joins once the batch has begun to empty


def test_samples_are_in_the_order_of_prompts() -> None:
    works = _works(Mixture([_Numbered()], 1))
    started = [_started(works)[0] for _ in range(4)]
    for index in (2, 0, 3, 1):
        _finish(started[index], "x" * (index + 1))
    assert [len(sample.answer) for sample in works.samples] == [2, 3, 4, 5]
