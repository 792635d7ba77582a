"""Recordings that are made up: texts of which it is known where the draft errs."""

from __future__ import annotations

from bench.overlap.recording import Recording, Row, Tail, Text


def a_text(length: int, wrong: dict[int, int]) -> Text:
    """Tokens 1, 2, 3 and so on. wrong: where the draft errs, and the rank that the text's token then has."""
    rows = []
    for kept in range(length + 1):
        tokens = [600 + rank for rank in range(8)]
        tokens[wrong.get(kept, 0)] = kept + 1
        rows.append(Row(tokens, [-0.5 - rank for rank in range(8)], 0.1 if kept not in wrong else 2.0))
    tails = {kept: Tail([600, *range(700, 715)], [Row([700 + at], [0.0], 1.0) for at in range(16)]) for kept in wrong}
    return Text(list(range(1, length + 1)), rows, tails)


def a_recording(*texts: Text) -> Recording:
    return Recording("a draft", 0.0, 0, texts)
