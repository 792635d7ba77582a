"""Stand-ins for a large target and its drafts, where no large model can be had: the same text at another price.

The target computes exactly what a small model does and costs as much as a large one; drafts are the small model with
noise in its weights, more of it for less agreement. Every figure taken with one of these is a rig's, and says so: costs
and agreement are real, but no such pair exists.
"""

from __future__ import annotations

from tandem.models import ModelNotFoundError

#: Names that `resolve_rig` knows, beside those that Tandem does.
PREFIX = "rig:"
WIDE = "rig:wide-"
NOISE = "rig:noise-"
_WIDTHS = range(2, 5)
#: What they are made of.
BASE = "embedded:smollm2"


def resolve_rig(name: str) -> str:
    """A folder for `rig:wide-3` and `rig:noise-0.05`, built the first time (2.3 GB and 0.3 GB); other names unchanged.

    Raises ModelNotFoundError for a rig that there is none of, and ModelError where it cannot be built.
    """
    if not name.startswith(PREFIX):
        return name
    from bench.rig_models import noisy_draft, wide_target  # with torch

    width, share = _number(name, WIDE), _number(name, NOISE)
    if width is not None and width in _WIDTHS:
        return str(wide_target(int(width)))
    if share is not None and 0 < share <= 1:
        return str(noisy_draft(share))
    widths = f"{_WIDTHS.start} to {_WIDTHS.stop - 1}"
    raise ModelNotFoundError(f"there is no {name!r}; rigs are {WIDE}N for N from {widths} and {NOISE}X for X up to 1")


def _number(name: str, prefix: str) -> float | None:
    try:
        return float(name.removeprefix(prefix)) if name.startswith(prefix) else None
    except ValueError:
        return None
