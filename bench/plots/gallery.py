"""All pictures of a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bench.pair import Pair
from bench.plots import densities, goals, load, methods, peers, positions, round_parts, speed, thresholds, tradeoff
from bench.plots.forms.decode import DecodeData, DecodeRun
from bench.plots.forms.document import Document
from bench.plots.forms.methods import MethodsData
from bench.plots.forms.others import PeersData, QualityData
from bench.plots.forms.pairs import same_models
from bench.plots.forms.serve import ServeData
from bench.plots.picture import Drawn, Picture


def pictures(document: Document, others: Sequence[Document] = ()) -> list[Drawn]:
    """others: the documents among which a picture of two finds the second. No two have the same name."""
    drawn = [goals.draw(document.rows)] if any(row.goal is not None for row in document.rows) else []
    match document.data:
        case DecodeData() as decode:
            drawn += _of_decode(decode)
        case MethodsData() as compared:
            drawn.append(methods.draw(compared))
        case QualityData() as quality:
            runs = _runs_of(document.pairs, others)
            drawn += [each for run in quality.runs for each in tradeoff.draw(run, runs)]
        case ServeData(points=points):
            drawn += load.draw(points)
        case PeersData(sides=sides):
            drawn.append(peers.draw(sides))
    return _told_apart(drawn)


def _told_apart(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Runs of several pairs may have the same temperature."""
    seen: Counter[str] = Counter()
    found: list[Drawn] = []
    for each in drawn:
        if isinstance(each, Picture):
            seen[each.name] += 1
            if seen[each.name] > 1:
                each = replace(each, name=f"{each.name}-{seen[each.name]}")
        found.append(each)
    return found


def _of_decode(decode: DecodeData) -> list[Drawn]:
    drawn = [speed.draw(decode), positions.draw(decode)]
    for run, title in zip(decode.runs, decode.titles, strict=True):
        drawn.append(round_parts.draw(run, title))
        drawn += [densities.draw_entropies(run, title), densities.draw_distances(run, title)]
        drawn.append(thresholds.draw(run, title))
    return drawn


def _runs_of(pairs: Sequence[Pair], others: Sequence[Document]) -> list[DecodeRun]:
    """All that were measured with this pair."""
    decoded = [(other, other.data) for other in others if isinstance(other.data, DecodeData)]
    found = [(run, run.pair or next(iter(other.pairs), None)) for other, data in decoded for run in data.runs]
    return [run for run, measured in found if measured and any(same_models(measured, pair) for pair in pairs)]
