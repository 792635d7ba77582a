"""Fills docs/methods.md with the figures of a record: a paragraph of each section, and one that says what it was.

Sections are found by their headings: `## Accept rules`, and below it one by each rule's name. The paragraphs that begin
with `Measured:` and `Record:` are the generator's; all others stay as they are.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from bench.decode.methods import ACCEPT, DRAFTER, POLICY, SERVICE, STOP, TREE
from bench.decode.standing import Standing, standing
from bench.page.cells import interval, number, percent
from bench.plots.forms.document import Document
from bench.plots.forms.methods import MethodRow, MethodsData, MethodsRun
from bench.plots.forms.pairs import pair_name

#: Kinds of methods by the headings above them.
HEADINGS: Mapping[str, str] = {
    "Accept rules": ACCEPT,
    "Stop rules": STOP,
    "Drafters": DRAFTER,
    "Trees": TREE,
    "Services": SERVICE,
    "Both rules by one name": POLICY,
}

_MEASURED, _RECORD = "Measured:", "Record:"
_WIDTH = 120


def sections(text: str) -> dict[str, str]:
    """What stands in each method's section, by the method's key."""
    found: dict[str, list[str]] = {}
    for key, paragraph in _paragraphs(text):
        if key is not None:
            found.setdefault(key, []).append(paragraph)
    return {key: "\n\n".join(paragraphs) for key, paragraphs in found.items()}


def with_figures(text: str, document: Document) -> str:
    """The page with the figures of the document. Raises ValueError for a document of another bench."""
    if not isinstance(document.data, MethodsData):
        raise ValueError("needs what `bench decode --all` wrote with --json")
    data = document.data
    return "\n\n".join(_filled(key, paragraph, document, data) for key, paragraph in _paragraphs(text))


def _paragraphs(text: str) -> Iterator[tuple[str | None, str]]:
    """Each with the key of the method in whose section it stands, if any. Headings are paragraphs."""
    kind: str | None = None
    key: str | None = None
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("### "):
            name = paragraph.removeprefix("### ").strip().strip("`")
            key = f"{kind}/{name}" if kind else None
        elif paragraph.startswith("## "):
            kind, key = HEADINGS.get(paragraph.removeprefix("## ").strip()), None
        yield key, paragraph


def _filled(key: str | None, paragraph: str, document: Document, data: MethodsData) -> str:
    end = "\n" if paragraph.endswith("\n") else ""  # of the page
    if paragraph.startswith(_RECORD):
        return _wrapped(f"{_RECORD} {_origin(document)}") + end
    if key is not None and paragraph.startswith(_MEASURED):
        return _wrapped(f"{_MEASURED} {_sentence(key, data)}") + end
    return paragraph


def _origin(document: Document) -> str:
    rough = "; rough, or ended before all was measured" if document.rough else ""
    asked = "{prompts} prompts, {max_tokens} tokens each".format_map(document.options)
    return f"{asked}; {document.machine}; {document.when}{rough}."


def _sentence(key: str, data: MethodsData) -> str:
    """A part for each pair, in which temperatures follow one another."""
    by_pair: dict[str, list[str]] = {}
    for run in data.runs:
        row = next((each for each in run.rows if each.key == key and each.completions), None)
        if row is not None:
            by_pair.setdefault(pair_name(run.pair), []).append(_part(run, row))
    if not by_pair:
        return "not measured yet."
    return "; ".join(f"{pair}: {', '.join(parts)}" for pair, parts in by_pair.items()) + "."


def _part(run: MethodsRun, row: MethodRow) -> str:
    found = standing(run, row)
    speed = interval(found.over_alone) or "no speed"
    return f"{speed} times the target alone at temperature {run.temperature:g} ({'; '.join(_details(row, found))})"


def _details(row: MethodRow, found: Standing) -> Sequence[str]:
    details = []
    if found.over_vanilla is not None:
        details.append(f"{interval(found.over_vanilla)} times vanilla")
    if found.acceptance_length is not None:
        details.append(f"{number(found.acceptance_length)} tokens a round")
    if row.lossy:
        details.append(f"{percent(found.lossy_share)} let through")
    if row.lossy and found.as_alone is not None:
        details.append(f"{percent(found.as_alone)} of the text as the target alone")
    return details or ["no rounds"]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))
