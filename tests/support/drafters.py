"""Drafters by name, over models that were made, not loaded."""

from __future__ import annotations

from draft_service.drafters.base import Drafter
from draft_service.drafters.early_exit import EarlyExitDrafter
from draft_service.drafters.features import FeaturesDrafter
from draft_service.drafters.model import ModelDrafter
from draft_service.making import drafter_of
from tandem.drafters import EARLY_EXIT, MODEL, drafter_parts
from tandem.inference.exits import ExitRunner
from tandem.inference.feeding import FedRunner
from tandem.inference.loaded import LoadedModel
from tandem.tokenization import Tokenizer
from tandem.wire import model_info
from tests.support.tiny import tiny_head
from tests.support.trio import serve_model

#: Names that stand for every drafter there is, alone and behind others.
NAMES = (
    "model", "prompt-lookup", "suffix", "stand", "stand+model", "suffix+model", "model+suffix", "stand+suffix",
    "prompt-lookup+stand+model", "early-exit", "suffix+early-exit", "features", "suffix+features",
)  # fmt: skip
# A model that reads features: no drafter's name, but a kind of what `--model` names.
_FEATURES = "features"


def make(name: str, draft: LoadedModel, tokenizer: Tokenizer, *, share_ngrams: bool = False) -> Drafter:
    """As the draft service makes it. draft: of the part that is a model."""

    def model() -> Drafter:
        served = serve_model(draft, tokenizer, "tiny-draft")
        return ModelDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    def early_exit() -> Drafter:
        served = serve_model(draft, tokenizer, "tiny-draft", runner=ExitRunner)
        return EarlyExitDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    def features() -> Drafter:
        served = serve_model(tiny_head(draft), tokenizer, "tiny-head", runner=FedRunner)
        return FeaturesDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    parts = drafter_parts(name.replace(_FEATURES, MODEL), "")
    makes = early_exit if EARLY_EXIT in parts else features if _FEATURES in name else model
    return drafter_of(parts, makes, share_ngrams=share_ngrams)
