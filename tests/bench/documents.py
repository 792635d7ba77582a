"""Documents as benches write them: accounts of rounds that a small model of drafting drew, in the real messages."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.goals import Figure, judge, read_goals
from bench.intervals import bootstrap, paired_difference
from bench.pair import Pair
from bench.plots.forms.document import Document, read_document
from bench.policies import ALONE, DRAFT_ALONE, POLICIES
from bench.record import write_json
from tandem.cli.render import to_plain
from tandem.v1 import completion_pb2

PAIR = Pair("rig:wide-3", "rig:noise-0.05", threads=2).options()
OPTIONS = PAIR | {"count": 4}
DATASETS = ("spec-bench", "gsm8k", "humaneval")
TOKENS = 48


def decode_data(
    source: random.Random,
    names: Sequence[str] = tuple(POLICIES),
    temperatures: Sequence[float] = (0.0,),
    each: int = 4,
    datasets: Sequence[str] = DATASETS,
    traced: bool = True,
) -> dict[str, Any]:
    """What `bench decode` keeps."""
    return {"runs": [_run(source, names, temperature, each, datasets, traced) for temperature in temperatures]}


def quality_data(source: random.Random, names: Sequence[str], temperature: float = 0.0) -> dict[str, Any]:
    """What `bench quality` keeps."""
    alone = [source.gauss(0.9, 0.2) for _ in range(12)]
    policies, values = {}, {}
    for at, name in enumerate(names):
        worse = 0.0 if name == ALONE else 0.012 * at
        likelihoods = [value + (source.gauss(worse, 0.03) if worse else 0.0) for value in alone]
        answers = [float(source.random() < 0.6 - worse) for _ in alone]
        values[name] = {"negative log-likelihood": likelihoods, "gsm8k exact answer": answers}
        difference = None if name == ALONE else paired_difference(likelihoods, alone)
        policies[name] = {
            "measures": {
                "negative log-likelihood": _measure(likelihoods, difference),
                "gsm8k exact answer": _measure(answers, None),
            }
        }
    check = {"policy": "vanilla, 5", "what": "the target's own text", "found": "11 of 12 texts equal", "holds": False}
    return {"temperature": temperature, "policies": policies, "values": values, "lossless": [check]}


def serve_data(source: random.Random, names: Sequence[str], kind: str = "closed") -> dict[str, Any]:
    """What `bench serve` keeps: throughput saturates, waits grow."""
    points = []
    for at, name in enumerate(names):
        for load in (1.0, 2.0, 4.0, 8.0):
            wait = (12 + 2 * at) * (1 + load / 3) * source.uniform(0.95, 1.05)
            points.append(
                {
                    "policy": name, "kind": kind, "load": load, "requests": 20, "failed": int(load == 8.0 and at == 1),
                    "seconds": 30.0, "tokens_per_second": (40 + 5 * at) * load / (1 + load / 6),
                    "requests_per_second": 0.8 * load, "first_token_ms": _percentiles(3 * wait),
                    "per_token_ms": _percentiles(wait), "latency_ms": _percentiles(60 * wait),
                    "mean_acceptance_length": 1.0 + 0.4 * at, "plain_share": 1.0 if name == ALONE else load / 10,
                }
            )  # fmt: skip
    return {"points": points}


def peers_data(source: random.Random, sides: Mapping[str, float]) -> dict[str, Any]:
    """What `bench peers` keeps. sides: tokens per second of one client."""
    return {
        "sides": {
            name: {
                clients: {"tokens_per_second": [source.gauss(speed * gain, speed / 20) for _ in range(5)], "note": ""}
                for clients, gain in (("1", 1.0), ("8", 3.1))
            }
            for name, speed in sides.items()
        },
        "versions": {"transformers": "5.23.0"},
    }


def engine_rows(source: random.Random) -> list[Any]:
    """All goals of the engine: most hold, some fall short, one was skipped."""
    goals = read_goals("engine")
    figures = []
    for at, (name, goal) in enumerate(goals.items()):
        middle = goal.goal * source.uniform(0.85, 1.1)
        spread = (middle * 0.96, middle * 1.05) if goal.goal else None
        figures.append(Figure(name, middle, spread, "made of 9") if at else Figure.skipped(name, "not asked for"))
    return judge(figures, goals, {})


def write(path: Path, bench: str, data: Any = None, rows: Sequence[Any] = (), **options: Any) -> Document:
    """Through the benches' own writer and back."""
    write_json(path, bench, rows, options=OPTIONS | options, data=data)
    return read_document(path)


def _percentiles(middle: float) -> dict[str, float]:
    return {"p50": middle, "p95": 1.9 * middle, "p99": 2.6 * middle}


def _measure(values: Sequence[float], difference: Any) -> dict[str, Any]:
    found = bootstrap(values, statistics.fmean)
    against = {"low": difference.low, "middle": difference.middle, "high": difference.high} if difference else None
    return {
        "low": found.low, "middle": found.middle, "high": found.high, "against_alone": against,
        "within_noise": difference.holds(0.0) if difference else None,
    }  # fmt: skip


def _run(
    source: random.Random, names: Sequence[str], temperature: float, each: int, datasets: Sequence[str], traced: bool
) -> dict[str, Any]:
    policies: dict[str, list[Any]] = {name: [] for name in names}
    traces: dict[str, list[Any]] = {name: [] for name in names}
    for dataset in datasets:
        for prompt in range(each):
            for name in names:
                report, rounds = _completion(source, name)
                seconds = report.time.rounds_microseconds / 1e6
                policies[name].append(
                    {
                        "dataset": dataset, "prompt": str(prompt), "tokens": TOKENS,
                        "tokens_per_second": (TOKENS - 1) / seconds, "speculation": to_plain(report),
                    }
                )  # fmt: skip
                traces[name].append([to_plain(account) for account in rounds])
    return {
        "pair": dict(PAIR), "temperature": temperature, "max_tokens": TOKENS, "policies": policies,
        "traces": traces if traced else {},
    }  # fmt: skip


def _completion(
    source: random.Random, name: str
) -> tuple[completion_pb2.SpeculationReport, list[completion_pb2.RoundAccount]]:
    speculates = name not in (ALONE, DRAFT_ALONE)
    report = completion_pb2.SpeculationReport(plain_tokens=1 if speculates else TOKENS)  # the first is the target's
    accounts = []
    if not speculates:
        for _ in range(TOKENS - 1):
            _spend(source, report.time.rounds, 0)
    made = 1
    while speculates and made < TOKENS:
        account = _round(source, name, len(accounts) + 1)
        accounts.append(account)
        made += account.kept + 1
        report.verify_steps += 1
        report.drafted_tokens += account.drafted
        report.accepted_tokens += account.kept
        report.accepted_at.extend([0] * (account.drafted - len(report.accepted_at)))
        for position in range(account.kept):
            report.accepted_at[position] += 1
        for field in account.time.DESCRIPTOR.fields:
            spent = getattr(report.time.rounds, field.name) + getattr(account.time, field.name)
            setattr(report.time.rounds, field.name, spent)
    rounds = report.time.rounds
    report.time.rounds_microseconds = sum(getattr(rounds, field.name) for field in rounds.DESCRIPTOR.fields)
    return report, accounts


def _round(source: random.Random, name: str, number: int) -> completion_pb2.RoundAccount:
    account = completion_pb2.RoundAccount(round=number, drafted=source.randint(2, 6))
    for _ in range(account.drafted):
        entropy = source.gammavariate(1.1, 0.7)
        account.draft_entropies.append(entropy)
        account.distances.append(min(1.0, source.betavariate(1 + entropy, 5)))
    account.kept = next(
        (at for at, entropy in enumerate(account.draft_entropies) if source.random() > 0.93 - 0.25 * entropy),
        account.drafted,
    )
    _spend(source, account.time, account.drafted)
    if "AdaSD" in name:
        account.thresholds["entropy"] = 1.2 - 0.4 / number + source.gauss(0, 0.05)
        account.thresholds["distance"] = 0.32 + source.gauss(0, 0.02)
    if name == "AdaEDL":
        account.thresholds["lambda"] = 0.5 + 0.01 * number
    return account


def _spend(source: random.Random, time: completion_pb2.RoundTime, drafted: int) -> None:
    if drafted:
        time.draft_queue_microseconds += source.randint(50, 300)
        time.draft_compute_microseconds += 9000 * drafted + source.randint(0, 2000)
        time.draft_wire_microseconds += source.randint(500, 900)
    time.target_queue_microseconds += source.randint(50, 400)
    time.target_compute_microseconds += source.randint(38000, 44000)
    time.target_wire_microseconds += source.randint(500, 900)
    time.orchestrator_microseconds += source.randint(200, 700)
