"""What the services' logs must not hold, whatever happens to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_BAD = re.compile(
    r"Traceback|\bINTERNAL\b|unexpected error|never retrieved|was never awaited|Fatal Python error|terminate called"
    r"|Segmentation fault|Aborted|was destroyed but it is pending"
)
_BEFORE, _AFTER = 2, 14
#: Of one file; one defect may fill it.
_MOST = 3


def found_in(folder: Path) -> Iterator[str]:
    """Each bad place with what stands around it."""
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        count, skip = 0, 0
        for number, line in enumerate(lines):
            if number < skip or not _BAD.search(line):
                continue
            count, skip = count + 1, number + _AFTER
            if count <= _MOST:
                around = lines[max(number - _BEFORE, 0) : number + _AFTER]
                yield "\n".join([f"{path.name}:{number + 1}", *(f"    {text[:300]}" for text in around)])
        if count > _MOST:
            yield f"{path.name}: {count - _MOST} more"
