"""What Python's collector of cycles is told of a process that loads modules and models, and then runs for weeks.

Torch and transformers make a million objects that stay for good. To look through them again and again while they are
made is a fifth of a service's start; to look through them later stops it for a quarter of a second, now and then; and
to look through them at the end keeps who waits for a command waiting.
"""

from __future__ import annotations

import atexit
import gc

_USUAL = gc.get_threshold()
# Objects that are made before the collector looks at them; 700 as Python starts.
_WHILE_LOADING = 100_000


def load() -> None:
    """Until `settle`: what is made stays, so it is looked at seldom."""
    gc.set_threshold(_WHILE_LOADING, *_USUAL[1:])


def settle() -> None:
    """What there is stays for good, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL)


def end_at_once() -> None:
    """At this process's end, nothing of what is still there is looked at: its memory goes with it."""
    atexit.register(gc.freeze)
