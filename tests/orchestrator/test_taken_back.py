"""What a service holds of a text follows the caller's, also where the caller takes tokens back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.prefix import Prefix
from tandem.progress import Progress
from tandem.rpc.errors import TandemError
from tandem.v1 import block_pb2

PROMPT = [1, 2, 3]
#: Of a round: candidates, how many of them are kept, tokens that follow, how many of all are then cut off, and how many
#: come instead of them.
_ROUNDS = st.lists(st.tuples(*[st.integers(0, 4)] * 5), max_size=12)


@given(rounds=_ROUNDS)
def test_the_service_holds_what_the_caller_has(rounds: list[tuple[int, int, int, int, int]]) -> None:
    text, fresh = list(PROMPT), iter(range(10, 1000))
    prefix, progress = Prefix(text), Progress(list(PROMPT), 1000, 1000, len(PROMPT))
    for number, (size, kept, follows, cut, instead) in enumerate(rounds):
        before = len(text)
        cached = progress.advance(number, prefix.continuation(), path="round.continuation")
        assert progress.tokens == text and cached <= before
        progress.candidates = [next(fresh) for _ in range(size)]
        prefix.is_whole()
        prefix.kept = min(kept, size)
        text += progress.candidates[: prefix.kept] + [next(fresh) for _ in range(follows)]
        length = max(len(PROMPT), len(text) - cut)
        if length < len(text):
            del text[length:]
            prefix.rewind(length)
        text += [next(fresh) for _ in range(instead)]
    progress.advance(len(rounds), prefix.continuation(), path="round.continuation")
    assert progress.tokens == text


def test_what_was_taken_back_is_not_in_the_cache() -> None:
    progress = Progress([1, 2, 3, 4, 5, 6], 64, 64, 3)
    back = block_pb2.Continuation(position=4, taken_back=2, token_ids=[9])
    assert progress.advance(1, back, path="round.continuation") == 4
    assert progress.tokens == [1, 2, 3, 4, 9]


@pytest.mark.parametrize(
    "continuation",
    [
        block_pb2.Continuation(position=2, taken_back=4),  # of the prompt
        block_pb2.Continuation(position=5, taken_back=2, kept=1),  # together with a block
        block_pb2.Continuation(position=0, taken_back=(1 << 32) - 1),
    ],
)
def test_more_than_the_text_or_beside_a_block_is_refused_and_changes_nothing(
    continuation: block_pb2.Continuation,
) -> None:
    progress = Progress([1, 2, 3, 4, 5, 6], 64, 64, 3, candidates=[7])
    with pytest.raises(TandemError) as refused:
        progress.advance(1, continuation, path="round.continuation")
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "round.continuation.taken_back")
    assert progress.tokens == [1, 2, 3, 4, 5, 6] and progress.candidates == [7]
