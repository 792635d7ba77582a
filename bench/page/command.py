"""`python -m bench report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.record import check_writable
from bench.terminal import check_drawing, one_line_errors, stdout
from tandem.cli.errors import CliError

if TYPE_CHECKING:
    from bench.page.build import Section  # with matplotlib


def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="What benches wrote with --json.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the page.")] = Path("report.html"),
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the pictures to this folder, too, as PNG and SVG.")
    ] = None,
) -> None:
    """Tables and pictures of what benches measured: one page that needs neither the network nor scripts."""
    with one_line_errors():
        _check(files, out)
        from bench.page.build import page, sections
        from bench.plots.forms.document import read_document

        shown = sections([read_document(path) for path in files])
        out.write_text(page(shown), encoding="utf-8")
        if pictures is not None:
            _write_pictures(shown, pictures)
        drawn = sum(len(section.pictures) for section in shown)
        stdout().print(f"{out}: {len(shown)} documents, {drawn} pictures", markup=False)


def _check(files: Sequence[Path], out: Path) -> None:
    """Before anything is drawn. Raises CliError or OSError."""
    check_drawing("the report")
    resolved = [path.resolve() for path in files]
    if doubled := [path for at, path in enumerate(files) if resolved[at] in resolved[:at]]:
        raise CliError(f"{doubled[0]} is named twice")
    if out.resolve() in resolved:
        raise CliError(f"--out {out} is one of the files to read")
    check_writable(out)


def _write_pictures(shown: Sequence[Section], folder: Path) -> None:
    """Raises OSError."""
    from bench.plots.picture import save

    folder.mkdir(exist_ok=True)
    for section in shown:
        for picture in section.pictures:
            save(picture, folder, f"{section.key}-{picture.name}")
