"""Rows of a cache: all of one size, each in one piece whatever became of those before."""

from __future__ import annotations

from random import Random

from tandem.distil.rows import RowRunner
from tandem.inference.runner import Chunk
from tandem.inference.sequence import Sequence
from tests.support.tiny import tiny_llama

_ROWS, _LENGTH = 5, 70


def _begin(sequence: Sequence, kept: int, length: int) -> None:
    sequence.truncate(kept)
    sequence.extend([1] * (length - sequence.length))
    sequence.table.reserve(_LENGTH - sequence.cached)


def test_each_row_stays_in_one_piece() -> None:
    runner = RowRunner(tiny_llama(), _ROWS, _LENGTH)
    random = Random(1)
    rows = [runner.open() for _ in range(_ROWS)]
    for sequence in rows:
        _begin(sequence, 0, 20)
    for _ in range(60):
        runner.run([Chunk(sequence, sequence.missing, 1) for sequence in rows if sequence.missing])
        changed = random.sample(range(_ROWS), 2)
        for index in changed:
            if random.random() < 0.5:  # another text, that may begin as this one
                _begin(rows[index], random.randrange(rows[index].cached), 40)
            else:
                rows[index].close()
                rows[index] = runner.open()
                _begin(rows[index], 0, random.randint(1, 60))
        extents = [list(sequence.table.extents(_LENGTH)) for sequence in rows]
        assert [len(pieces) for pieces in extents] == [1] * _ROWS
        places = sorted(start for [(start, _)] in extents)
        assert places == [80 * index for index in range(_ROWS)]  # 70 tokens are five blocks of 16
