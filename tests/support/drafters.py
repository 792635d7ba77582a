"""One of each drafter that there is, for a target of 64 tokens or fewer. A new drafter is a line here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from draft_service import drafters
from draft_service.drafters.base import Drafter
from draft_service.drafters.prompt_lookup import PromptLookupDrafter
from tandem.inference.loaded import LoadedModel
from tests.support.tiny import tiny_llama

#: By the class; made for a target `tiny_llama(seed, vocabulary=vocabulary)`. A model stands for the drafter that `trio`
#: makes of it.
DRAFTERS: dict[str, Callable[[int, int], LoadedModel | Drafter]] = {
    "ModelDrafter": lambda seed, vocabulary: tiny_llama(seed, vocabulary=vocabulary, noise=0.1),
    "PromptLookupDrafter": lambda seed, vocabulary: PromptLookupDrafter(),
}


def drafter_classes() -> set[str]:
    """Names of all classes of the draft service that can be served."""
    found = set()
    for module in pkgutil.walk_packages(drafters.__path__, f"{drafters.__name__}."):
        for name, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if name.endswith("Drafter") and name != "Drafter":
                found.add(each.__name__)
    return found
