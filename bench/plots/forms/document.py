"""A document, read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from bench.pair import Pair
from bench.plots.forms.base import Form
from bench.plots.forms.decode import DecodeData
from bench.plots.forms.methods import MethodsData
from bench.plots.forms.others import PeersData, QualityData, RowForm
from bench.plots.forms.pairs import pair_of
from bench.plots.forms.serve import ServeData
from bench.record import read_json

Data = DecodeData | MethodsData | QualityData | ServeData | PeersData

_DATA: dict[str, type[Data]] = {
    "decode": DecodeData,
    "methods": MethodsData,
    "quality": QualityData,
    "serve": ServeData,
    "peers": PeersData,
}


class Document(Form):
    """data: None where there is none, or nobody here knows its form."""

    bench: str
    machine: str
    commit: str
    when: str = ""
    rough: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    rows: list[RowForm] = []
    data: Data | None = None

    @property
    def pairs(self) -> list[Pair]:
        """Those of the runs, which may have been others than the options name; none where a bench has no pair."""
        if isinstance(self.data, DecodeData) and (found := [run.pair for run in self.data.runs if run.pair]):
            return list(dict.fromkeys(found))
        if isinstance(self.data, MethodsData):
            return list(dict.fromkeys(run.pair for run in self.data.runs))
        named = pair_of(self.options)
        return [named] if named else []


def read_document(path: Path) -> Document:
    """Raises OSError, or ValueError in one line that names the file and the place."""
    try:
        content = read_json(path)
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON of a bench: too many brackets within each other") from error
    form = _DATA.get(content["bench"]) if isinstance(content["bench"], str) else None
    data = content.pop("data")
    try:
        document = Document.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_fault(error)}") from error
    if form is None or data is None:
        return document
    try:
        return document.model_copy(update={"data": form.model_validate(data)})
    except ValidationError as error:
        raise ValueError(f"{path}: data.{_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {' '.join(fault['msg'].split())}"
