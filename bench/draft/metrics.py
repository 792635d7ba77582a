"""What lies beside a draft about how it was made: `metrics.json`, and the curve that it holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

_FILE = "metrics.json"
#: Times as many tokens that the curve is asked about.
TIMES = 10

Share = Annotated[float, Field(ge=0, le=1)]


class Point(BaseModel):
    """What a draft reached that was trained on so many tokens of answers."""

    tokens: int = Field(ge=1)
    greedy_agreement: Share
    one_minus_tv: Share


class Metrics(BaseModel):
    """made_on: which goals it is held to."""

    made_on: Literal["cpu", "gpu"] = "cpu"
    curve: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """share = a + b ln(tokens), by least squares. predicted: of TIMES as many tokens as the most there were."""

    a: float
    b: float
    predicted: float


def read_metrics(folder: Path) -> Metrics:
    """Of a draft's folder; the first drafts have none, and were made on a CPU. Raises ValueError naming the field."""
    path = folder / _FILE
    if not path.is_file():
        return Metrics()
    try:
        return Metrics.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {f'{field}: ' if field else ''}{first['msg']}") from error


def fit(tokens: Sequence[int], shares: Sequence[float]) -> Fit | None:
    """None for fewer than two numbers of tokens."""
    if len(set(tokens)) < 2:
        return None
    logs = [math.log(count) for count in tokens]
    slope, intercept = statistics.linear_regression(logs, shares)
    return Fit(intercept, slope, intercept + slope * math.log(TIMES * max(tokens)))
