"""What several tests of models ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

#: Characters that the embedded model has tokens for: some control characters and planes that no text uses have none.
EMBEDDED_CHARACTERS = st.characters(
    codec="utf-8", exclude_characters="\ufffd\x04\x06\x13\x14\x16\x1d", max_codepoint=0x3FFFF
)


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """An error of exactly this kind, in one line, with these words in this order."""
    with pytest.raises(kind, match=".*".join(re.escape(word) for word in words)) as caught:
        yield
    assert caught.type is kind
    assert "\n" not in str(caught.value)


def left_in_cache(home: Path) -> list[str]:
    """Names in the model cache, without lock files."""
    models = home / "models"
    return sorted(path.name for path in models.iterdir() if path.suffix != ".lock") if models.is_dir() else []
