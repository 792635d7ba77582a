"""What the checks of the stack share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tandem.client import Client
from tandem.client.answers import Completion
from tandem.client.errors import UnavailableError

SERVICES = ("draft", "target", "orchestrator")
IMAGES = (*SERVICES, "pull")
#: In front of the images' names.
REGISTRY = "tandem-test/"
PROMPT = [{"role": "user", "content": "Tell me a story about a lighthouse."}]
#: In float32 the same seed gives the same text with and without a draft, so that a text can be right or wrong.
REQUEST: dict[str, Any] = {"max_tokens": 96, "ignore_end_tokens": True, "temperature": 0.7, "seed": 7}
#: Drafts always, and gives the target's own text: whether drafting is worth its time is not the question here.
DRAFTED = {"stop": "fixed", "accept": "coupled"}
_BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - _BEGAN:7.1f} s  {text}", flush=True)


def eventually(act: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except (UnavailableError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.25)


def complete(client: Client, speculation: str | dict[str, str] = "off") -> Completion:
    return client.complete(PROMPT, speculation=speculation, timeout=600, **REQUEST)
