"""One self-contained page of several documents."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.page.cells import Table
from bench.page.tables import tables
from bench.plots.forms.document import Document
from bench.plots.forms.pairs import FIELDS, pair_name
from bench.plots.gallery import pictures
from bench.plots.picture import Absent, Picture, to_svg

_TITLES = {
    "engine": "The engine and its goals",
    "decode": "Policies side by side",
    "methods": "All methods side by side",
    "draft": "A draft and its goals",
    "quality": "What policies cost in quality",
    "serve": "Under load",
    "peers": "Beside other software",
}


@dataclass(frozen=True, slots=True)
class Section:
    """One document, ready to be shown. key: its anchor, and the beginning of its pictures' names."""

    key: str
    title: str
    document: Document
    asked: Sequence[tuple[str, str]]
    rig: str
    verdicts: str
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    absent: Sequence[Absent]


def sections(documents: Sequence[Document]) -> list[Section]:
    """In their order. Pictures of two documents stand with that of the quality."""
    return [_section(number, document, documents) for number, document in enumerate(documents, start=1)]


def page(shown: Sequence[Section]) -> str:
    """HTML with its style and its pictures in it: it needs neither the network nor scripts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["data_address"] = _data_address
    return environment.get_template("page.html.j2").render(sections=shown)


def _section(number: int, document: Document, documents: Sequence[Document]) -> Section:
    drawn = pictures(document, documents)
    return Section(
        key=f"{number}-{''.join(c if c.isascii() and c.isalnum() else '-' for c in document.bench)}",
        title=_title(document),
        document=document,
        asked=_asked(document),
        rig=_rig(document),
        verdicts=_verdicts(document),
        tables=tables(document),
        pictures=[each for each in drawn if isinstance(each, Picture)],
        absent=[each for each in drawn if isinstance(each, Absent)],
    )


def _title(document: Document) -> str:
    """With the pair of models, where it has one."""
    title, pairs = _TITLES.get(document.bench, document.bench), document.pairs
    return f"{title}: {f'{len(pairs)} pairs' if len(pairs) > 1 else pair_name(pairs[0])}" if pairs else title


def _asked(document: Document) -> list[tuple[str, str]]:
    """Where several pairs were run, as goals ask for, the options' one is not what was asked."""
    pairs = document.pairs
    asked = {"pairs": "; ".join(map(pair_name, pairs))} if len(pairs) > 1 else {}
    options = {name: value for name, value in document.options.items() if not asked or name not in FIELDS}
    return [(name.replace("_", " "), _plain(value)) for name, value in (asked | options).items()]


def _rig(document: Document) -> str:
    """Which of the pairs do not exist; empty where all do."""
    rigs = [pair for pair in document.pairs if pair.is_rig]
    which = "" if len(rigs) == len(document.pairs) else f" This is so of {'; '.join(map(pair_name, rigs))}."
    return f"real costs and agreement of a pair that does not exist.{which}" if rigs else ""


def _verdicts(document: Document) -> str:
    """One line; empty where there are no goals."""
    verdicts = [row.verdict for row in document.rows if row.goal is not None]
    if not verdicts:
        return ""
    counts = {"hold": verdicts.count("holds"), "fall short": verdicts.count("short")}
    rest = len(verdicts) - sum(counts.values())
    parts = [f"{count} {what}" for what, count in counts.items()] + ([f"{rest} not measured"] if rest else [])
    return f"Of {len(verdicts)} goals: {', '.join(parts)}."


def _plain(value: Any) -> str:
    if value in (None, []):
        return "not set"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _data_address(picture: Picture) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(to_svg(picture)).decode('ascii')}"
