"""From what the service is configured to draft with to the drafter that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from draft_service.settings import DraftSettings
from tandem.drafters import EARLY_EXIT, PROMPT_LOOKUP, STAND, SUFFIX

if TYPE_CHECKING:
    from draft_service.drafters.base import Drafter
    from tandem.grammars import Grammars
    from tandem.inference.serving import ServedModel

# Tokens that have to be found again where another drafter would have a say otherwise: of SAM-Decoding's public code
# (arXiv 2411.10666), and the longest run that prompt look-up looks for [ours]. A short match is a guess.
_LEAST_SUFFIX, _LEAST_RUN = 4, 3

# Functions import what imports torch, which takes seconds: a mistyped flag does not wait for it.


def make_drafter(settings: DraftSettings) -> tuple[Drafter, Grammars | None]:
    """Loads what there is to load. Also returns the grammars of the model's tokenizer, None where there is no model.
    Raises ModelError or TokenizationError."""
    grammars: Grammars | None = None

    def model() -> Drafter:
        nonlocal grammars
        from draft_service.drafters.model import ModelDrafter
        from draft_service.pairing import read_target, translating
        from tandem.inference.serving import load_engine
        from tandem.wire import model_info

        target = read_target(settings.for_target, settings.for_target_revision) if settings.for_target else None
        options = settings.engine_options()
        served = load_engine(settings.model, settings.revision, keeps_turns=True, may_be_fed=True, **options)
        grammars = served.grammars
        if served.loaded.is_fed:
            return features(served)
        if target is not None and (drafter := translating(served, target)) is not None:
            grammars = target.grammars
            return drafter
        return ModelDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    def features(served: ServedModel) -> Drafter:
        from draft_service.drafters.features import FeaturesDrafter
        from tandem.models import UnsupportedModelError
        from tandem.wire import model_info

        for flag, is_set in (("--for-target", settings.for_target), ("--look-ahead-rows", settings.look_ahead_rows)):
            if is_set:
                raise UnsupportedModelError(f"{flag} does not go with {served.model_id}, which reads features")
        return FeaturesDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    def early_exit() -> Drafter:
        nonlocal grammars
        from draft_service.drafters.early_exit import EarlyExitDrafter
        from tandem.inference.serving import load_engine
        from tandem.wire import model_info

        options = settings.engine_options()
        served = load_engine(settings.model, settings.revision, keeps_turns=True, exits=True, **options)
        grammars = served.grammars
        return EarlyExitDrafter(served.engine, model_info(served), sayable=served.loaded.sayable)

    make = early_exit if EARLY_EXIT in settings.parts else model
    drafter = drafter_of(settings.parts, make, share_ngrams=settings.share_ngrams)
    return drafter, grammars


def drafter_of(parts: Sequence[str], model: Callable[[], Drafter], *, share_ngrams: bool = False) -> Drafter:
    """Of names as `tandem.drafters` has them. model: makes the one that is a model, where there is one."""
    made = [_part(name, model, is_last=name == parts[-1], share_ngrams=share_ngrams) for name in parts]
    if len(made) == 1:
        return made[0]
    from draft_service.drafters.combined import CombinedDrafter

    return CombinedDrafter(made)


def _part(name: str, model: Callable[[], Drafter], *, is_last: bool, share_ngrams: bool) -> Drafter:
    if name == PROMPT_LOOKUP:
        from draft_service.drafters.prompt_lookup import PromptLookupDrafter

        return PromptLookupDrafter(least=1 if is_last else _LEAST_RUN)
    if name == SUFFIX:
        from draft_service.drafters.suffix import SuffixDrafter

        return SuffixDrafter(least=1 if is_last else _LEAST_SUFFIX)
    if name == STAND:
        from draft_service.drafters.stand import StandDrafter

        return StandDrafter(shares=share_ngrams)
    return model()
