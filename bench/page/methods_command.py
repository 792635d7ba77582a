"""`python -m bench methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.page.methods_page import with_figures
from bench.plots.forms.document import read_document
from bench.record import check_writable
from bench.terminal import one_line_errors, stdout

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def methods(
    record: Annotated[Path, typer.Argument(metavar="FILE", help="What `bench decode --all` wrote with --json.")],
    page: Annotated[Path, typer.Option(metavar="FILE", help="The page whose figures are written.")] = PAGE,
) -> None:
    """Writes the figures of a record into the page of methods; what the record lacks is not measured yet there."""
    with one_line_errors():
        check_writable(page)
        filled = with_figures(page.read_text(encoding="utf-8"), read_document(record))
        page.write_text(filled, encoding="utf-8")
        stdout().print(f"{page}: with the figures of {record}", markup=False)
