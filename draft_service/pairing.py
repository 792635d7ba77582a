"""A draft for a target of another family: what they share, found when the service starts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from draft_service.drafters.translating import TranslatingDrafter
from draft_service.drafters.translation import Translation
from tandem.grammars import Grammars
from tandem.inference.loading import tokenizer_folder, vocabulary_size
from tandem.inference.serving import ServedModel
from tandem.models import UnsupportedModelError, resolve
from tandem.tokenization import Tokenizer
from tandem.transcripts import Reader
from tandem.v1 import model_pb2
from tandem.vocabularies import Intersection, VocabularyError, intersect
from tandem.wire import model_info

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What a draft needs to know of the target that it drafts for. vocabulary_size: as its service has it."""

    name: str
    tokenizer: Tokenizer
    vocabulary_size: int
    grammars: Grammars


def read_target(name: str, revision: str | None) -> Target:
    """name: as the target service takes it, or a folder with tokenizer.json alone. No weights are read.

    Raises ModelError or TokenizationError.
    """
    path = Path(os.path.expanduser(name))
    if (path / "tokenizer.json").is_file() and not (path / "config.json").is_file():
        tokenizer = Tokenizer.from_folder(path)
        return Target(path.name, tokenizer, tokenizer.vocabulary_size, Grammars(tokenizer))
    folder = resolve(name, revision, weights=False)
    tokenizer = Tokenizer.from_folder(tokenizer_folder(folder))
    size = min(tokenizer.vocabulary_size, vocabulary_size(folder))
    return Target(folder.model_id, tokenizer, size, Grammars(tokenizer))


def translating(served: ServedModel, target: Target) -> TranslatingDrafter | None:
    """None where no translation is needed, because the tokenizer is the same. Raises UnsupportedModelError for a pair
    that shares nothing, or whose tokens cannot be told."""
    own = served.grammars.tokenizer
    if own.fingerprint == target.tokenizer.fingerprint:
        return None
    loaded = served.loaded
    sayable = None if loaded.sayable is None else loaded.sayable.token_ids.tolist()
    try:
        shared = intersect(
            target.tokenizer,
            own,
            target_size=target.vocabulary_size,
            draft_size=loaded.vocabulary_size,
            sayable=sayable,
        )
        reader = Reader(target.tokenizer, own)
        translation = Translation(shared, reader, target.vocabulary_size, loaded.device)
    except (VocabularyError, ValueError) as error:
        raise UnsupportedModelError(f"{served.model_id} cannot draft for {target.name}: {error}") from error
    _log.info(
        "%s drafts for %s by the %d tokens that both have, of %d and %d",
        served.model_id, target.name, len(shared), loaded.vocabulary_size, target.vocabulary_size,
    )  # fmt: skip
    return TranslatingDrafter(served.engine, _told(model_info(served), target, shared), translation)


def _told(own: model_pb2.ModelInfo, target: Target, shared: Intersection) -> model_pb2.ModelInfo:
    """What the service says of itself: in the target's ids."""
    info = model_pb2.ModelInfo()
    info.CopyFrom(own)
    info.trees = False
    info.intersection.own_tokenizer_fingerprint = own.tokenizer_fingerprint
    info.intersection.own_vocabulary_size = own.vocabulary_size
    info.intersection.shared_tokens = len(shared)
    info.intersection.fingerprint = shared.fingerprint
    info.tokenizer_fingerprint = target.tokenizer.fingerprint
    info.vocabulary_size = target.vocabulary_size
    theirs = dict(zip(shared.draft_ids, shared.target_ids, strict=True))
    del info.end_token_ids[:]
    info.end_token_ids.extend(theirs[token] for token in own.end_token_ids if token in theirs)
    return info
