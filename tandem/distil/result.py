"""What a run comes to: the draft's folder with its metrics, card, recipe and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tandem.distil import plot
from tandem.distil.base import Base
from tandem.distil.card import card
from tandem.distil.checkpoint import Course
from tandem.distil.curve import FIGURES, fit
from tandem.distil.dataset import Split, count_tokens
from tandem.distil.evaluation import Evaluation, as_json
from tandem.distil.export import write_draft
from tandem.distil.files import to_toml, write_whole
from tandem.distil.paths import relative_paths
from tandem.distil.preparing import Prepared
from tandem.distil.recipe import Recipe
from tandem.distil.vocabulary import Vocabulary

PICTURE = "training.png"


@dataclass(frozen=True, slots=True)
class Trained:
    """tokens: distinct ones of answers that it learnt from. held_out: measured on all that was held out. own: the
    weights, on the CPU."""

    tokens: int
    course: Course
    held_out: Evaluation
    own: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Result:
    """trainings: on rising shares of the data, the last on all of it. made_on: `cpu` or `gpu`."""

    recipe: Recipe
    base: Base
    prepared: Prepared
    vocabulary: Vocabulary
    data: Split
    trainings: Sequence[Trained]
    made_on: str


def write_result(result: Result, folder: Path) -> list[str]:
    """Writes all files of the draft; returns lines that say what it is. config.json, which makes the folder a
    model's, is the last."""
    recipe, shape = result.recipe, result.prepared.shape
    found = metrics(result)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", json.dumps(found, indent=1) + "\n")
    write_whole(folder / "recipe.toml", to_toml(relative_paths(recipe, folder)))
    write_whole(folder / "README.md", card(found, weights=recipe.weights, start_from=recipe.student.start_from))
    drawn = plot.draw(found, folder / PICTURE)
    cut = found["vocabulary"]["size"] < found["vocabulary"]["of"]
    token_ids = result.vocabulary.token_ids if cut else None
    own, kind = result.trainings[-1].own, recipe.student.kind
    write_draft(folder, shape.config, own, result.base, token_ids, recipe.weights, kind)
    held_out = found["held_out"]
    lines = [
        f"greedy agreement {held_out['greedy_agreement']:.3f}, 1 - TV at temperature 1"
        f" {held_out['one_minus_tv']:.3f} or more, on {held_out['places']:,} tokens that were held out"
    ]
    for figure, line in found.get("fit", {}).items():
        words = f"{line['a']:.3f} + {line['b']:.4f} ln(tokens)"
        lines.append(f"{figure} with ten times the data: {line['ten_times']:.3f}, by {words}")
    return lines if drawn else [*lines, f"no {PICTURE}: matplotlib is not installed"]


def metrics(result: Result) -> dict[str, Any]:
    """As `metrics.json` has them. No times: a run that was ended and went on has the same."""
    whole, data, vocabulary = result.trainings[-1], result.data, result.vocabulary
    held_out = as_json(whole.held_out)
    curve = [
        {"tokens": each.tokens, **{figure: as_json(each.held_out)[figure] for figure in FIGURES}}
        for each in result.trainings
    ]
    fits = {figure: line for figure in FIGURES if (line := fit(curve, figure)) is not None}
    return {
        "made_on": result.made_on,
        "target": result.base.name,
        "kind": result.recipe.student.kind,
        "layers": len(result.prepared.shape.origins),
        "origins": list(result.prepared.shape.origins),
        "parameters": result.prepared.parameters,
        "greedy_agreement": held_out["greedy_agreement"],
        "one_minus_tv": held_out["one_minus_tv"],
        "held_out": held_out,
        "vocabulary": {
            "size": len(vocabulary.token_ids),
            "of": result.prepared.vocabulary_size,
            "mass": round(vocabulary.mass, 6),
            "said": round(vocabulary.said, 6),
        },
        "data": {
            "sequences": len(data.train),
            "tokens": count_tokens(data.train),
            "held_out_sequences": len(data.held_out),
            "held_out_tokens": count_tokens(data.held_out),
        },
        "training": {"steps": whole.course.step, "tokens": whole.course.tokens, "reports": whole.course.reports},
        "curve": curve,
    } | ({"fit": {figure: asdict(line) for figure, line in fits.items()}} if fits else {})
