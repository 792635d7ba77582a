"""Seeds of everything that is drawn for a draft: each a pure function of the recipe's seed and of what it is for."""

from __future__ import annotations

from hashlib import blake2b


def seed_of(*parts: int | str) -> int:
    """An unsigned 64-bit number; other parts, or the same in another order, give another one."""
    text = "\0".join(f"{type(part).__name__} {part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
