"""The tables of a document's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.intervals import bootstrap
from bench.page.cells import Table, interval, number
from bench.page.decode_tables import decode_tables
from bench.page.methods_tables import methods_tables
from bench.page.serve_tables import serve_tables
from bench.plots.forms.decode import DecodeData
from bench.plots.forms.document import Document
from bench.plots.forms.methods import MethodsData
from bench.plots.forms.others import PeersData, QualityData, QualityRun, RowForm
from bench.plots.forms.serve import ServeData
from bench.plots.tradeoff import LIKELIHOOD

_NOISE = {True: "within noise", False: "beyond noise", None: "too few prompts"}
_HOLDS = {True: "holds", False: "broken", None: "says nothing"}


def tables(document: Document) -> list[Table]:
    """The goals first."""
    found = [goals_table(document.rows)] if document.rows else []
    match document.data:
        case DecodeData() as decode:
            found += decode_tables(decode)
        case MethodsData() as compared:
            found += methods_tables(compared)
        case QualityData() as quality:
            found += [table for run in quality.runs for table in quality_tables(run)]
            found.append(not_measured_table(quality.not_measured))
        case ServeData() as serve:
            found += serve_tables(serve)
        case PeersData() as peers:
            found += peers_tables(peers)
    return [table for table in found if table.rows]


def goals_table(rows: Sequence[RowForm]) -> Table:
    head = ("figure", "what it is", "measured", "middle half", "goal", "verdict", "made of")
    return Table("Figures and goals", head, [_goal_cells(row) for row in rows], texts=(1, 4, 5, 6))


def quality_tables(quality: QualityRun) -> list[Table]:
    """One for each measure, and one of promises."""
    names = dict.fromkeys(name for each in quality.policies.values() for name in each.measures)
    found = []
    for measure in names:
        digits = 4 if measure == LIKELIHOOD else 3
        rows = []
        for policy, each in quality.policies.items():
            if (value := each.measures.get(measure)) is not None:
                measured, difference = interval(value.interval, digits), interval(value.against_alone, digits)
                rows.append((policy, measured, difference, _NOISE[value.within_noise] if difference else ""))
        head = ("policy", "measured (95 % interval)", "less the target alone's (95 % interval)", "difference")
        found.append(Table(f"{measure}, temperature {quality.temperature:g}", head, rows, texts=(3,)))
    checks = [(check.policy, check.what, check.found, _HOLDS[check.holds]) for check in quality.lossless]
    head = ("policy", "promises", "found", "verdict")
    return [*found, Table(f"Lossless or not, temperature {quality.temperature:g}", head, checks, texts=(1, 2, 3))]


def not_measured_table(reasons: Mapping[str, str]) -> Table:
    return Table("Not measured", ("what", "why"), list(reasons.items()), texts=(1,))


def peers_tables(peers: PeersData) -> list[Table]:
    rows = [
        (
            name, count, interval(bootstrap(side.tokens_per_second), 1) if side.tokens_per_second else "",
            str(len(side.tokens_per_second)), "{} of {}".format(*side.equal_texts) if side.equal_texts else "",
            side.note,
        )
        for name, counts in peers.sides.items()
        for count, side in counts.items()
    ]  # fmt: skip
    head = ("side", "clients", "tokens/s (95 % interval)", "repetitions", "texts as plain transformers'", "note")
    versions = Table("Versions", ("package", "version"), list(peers.versions.items()), texts=(1,))
    return [Table("Throughput", head, rows, texts=(5,)), not_measured_table(peers.not_measured), versions]


def _goal_cells(row: RowForm) -> tuple[str, ...]:
    spread = f"{row.spread[0]:.3f} to {row.spread[1]:.3f}" if row.spread else ""
    goal = f"{row.direction} {row.goal:g}" if row.goal is not None else "none"
    return row.name, row.what, number(row.measured, 3), spread, goal, row.verdict or "", row.note
