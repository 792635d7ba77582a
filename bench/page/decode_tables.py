"""Tables of what `bench decode` measured."""

from __future__ import annotations

from collections.abc import Sequence

from bench.intervals import geometric_mean
from bench.page.cells import Table, interval, number, percent
from bench.plots.forms.decode import DecodeData, DecodeRun, Speculation
from bench.plots.round_parts import PARTS, per_round
from bench.plots.speed import places, speed_ups
from bench.policies import ALONE


def decode_tables(decode: DecodeData) -> list[Table]:
    return [
        table
        for run, title in zip(decode.runs, decode.titles, strict=True)
        for table in (policy_table(run, title), speed_table(run, title), time_table(run, title))
    ]


def policy_table(run: DecodeRun, which: str) -> Table:
    """Acceptance and speed over all prompts."""
    head = (
        "policy", "mean acceptance length", "acceptance rate", "drafted", "let through", "tokens/s",
        "speed / target alone",
    )  # fmt: skip
    speeds = speed_ups(run)
    rows = []
    for name, completions in run.policies.items():
        sums = _sums([each.speculation for each in completions])
        positive = [each.tokens_per_second for each in completions if each.tokens_per_second > 0]
        rows.append(
            (
                name,
                number(1 + sums.accepted_tokens / sums.verify_steps) if sums.verify_steps else number(1),
                percent(sums.accepted_tokens / sums.drafted_tokens) if sums.drafted_tokens else "",
                str(sums.drafted_tokens) if name != ALONE else "",
                str(sums.lossy_tokens) if name != ALONE else "",
                number(geometric_mean(positive), 1) if positive else "",
                "1" if name == ALONE else interval(speeds.get(name)),
            )
        )
    return Table(f"Policies, {which}, {run.max_tokens} tokens each", head, rows)


def speed_table(run: DecodeRun, which: str) -> Table:
    """Empty where there is one data set alone."""
    groups = {group: speed_ups(run, dataset) for group, dataset in places(run).items() if dataset is not None}
    rows = [(name, *(interval(found.get(name)) for found in groups.values())) for name in speed_ups(run) if groups]
    return Table(f"Speed / target alone by data set, {which}", ("policy", *groups), rows)


def time_table(run: DecodeRun, which: str) -> Table:
    """Empty where no parts were reported."""
    times = {name: per_round(completions) for name, completions in run.policies.items()}
    rows = [
        (name, *(number(parts[part]) for part in PARTS), number(sum(parts.values())))
        for name, parts in times.items()
        if parts
    ]
    return Table(f"The mean round in ms, {which}", ("policy", *PARTS, "together"), rows)


def _sums(reports: Sequence[Speculation]) -> Speculation:
    names = ("verify_steps", "drafted_tokens", "accepted_tokens", "lossy_tokens")
    return Speculation(**{name: sum(getattr(report, name) for report in reports) for name in names})
