"""The bench of the engine: its flags, its goals, and every group of figures on a tiny model."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from bench.__main__ import app
from bench.engine import command, soak
from bench.engine.figures import FIGURES, SOAK_MEMORY, WITHOUT_GOAL, Group, figures_of
from bench.engine.load import Load
from bench.engine.models import Models
from bench.engine.run import measures, run
from bench.engine.scale import Scale
from bench.engine.steps import SHAPES
from bench.engine.works import Stopwatch
from bench.goals import Figure, Goal, Outcome, read_goals
from tandem.v1 import target_pb2, target_pb2_grpc
from tests.bench.tiny_models import SCALE, TinyModels
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import trio

GOALS = read_goals("engine")
Bench = Callable[..., Result]


def test_every_figure_has_a_goal_or_says_why_not() -> None:
    assert not GOALS.keys() & WITHOUT_GOAL.keys()
    assert sorted(GOALS.keys() | WITHOUT_GOAL.keys()) == sorted(figures_of(Group))
    assert sorted(shape.name for shape in SHAPES) == sorted(FIGURES[Group.STEPS])


def test_groups_are_those_that_can_be_measured() -> None:
    assert list(measures(None)) == list(FIGURES) == list(Group)


def _reached(name: str, goal: Goal | None) -> Figure:
    return Figure(name, goal.goal if goal else 1.0, spread=(0.5, 1.5), note="1 ms against 1 ms")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Runs the command with figures that reach their goals, but for those that are given."""

    def run_command(*flags: str, given: Sequence[Figure] = ()) -> Result:
        by_name = {figure.name: figure for figure in given}

        def measure(options: command.Options, say: Callable[[Figure], None]) -> list[Figure]:
            names = figures_of(options.groups)
            return [by_name.get(name, _reached(name, GOALS.get(name))) for name in names]

        monkeypatch.setattr(command, "measure", measure)
        return CliRunner().invoke(app, ["engine", *flags], env={"COLUMNS": "200", "NO_COLOR": "1"})

    return run_command


def test_check_prints_a_row_for_each_figure(bench: Bench) -> None:
    done = bench("--check")
    assert done.exit_code == 0, done.output
    for name in figures_of(Group):
        [row] = [line for line in done.stdout.splitlines() if line.startswith(f"| {name} ")]
        assert (str(GOALS[name]) if name in GOALS else "none") in row
        assert ("holds" in row) == (name in GOALS)
    assert f"{len(GOALS)} of {len(GOALS)} goals hold" in done.stdout and "Rough" not in done.stdout


@pytest.mark.parametrize("missed", [Figure("int4_decode", 2.99), Figure.failed("int4_decode", "no such option")])
def test_check_fails_where_a_goal_is_missed(bench: Bench, missed: Figure) -> None:
    done = bench("--check", "--quick", given=[missed])
    assert done.exit_code == 1 and "1 falls short" in done.stdout and "Rough" in done.stdout
    assert bench("--check", "--only", "steps", given=[missed]).exit_code == 0  # another group's
    assert bench(given=[missed]).exit_code == 0  # nobody asked


def test_what_was_skipped_neither_holds_nor_falls_short(bench: Bench) -> None:
    done = bench("--check", given=[Figure.skipped(SOAK_MEMORY, "it takes --soak MINUTES")])
    assert done.exit_code == 0 and "skipped" in done.stdout
    assert f"{len(GOALS) - 1} of {len(GOALS)} goals hold, 1 not measured" in done.stdout


def test_figures_are_written_as_json(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = bench("--quick", "--json", str(path), given=[Figure("int4_decode", float("nan"))])
    assert done.exit_code == 0, done.output
    document = json.loads(path.read_text())
    assert document["bench"] == "engine" and document["rough"] is True
    assert document["machine"] and document["commit"] in document["machine"]
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == figures_of(Group)
    assert rows["sessions8_throughput"] == {
        "name": "sessions8_throughput", "what": GOALS["sessions8_throughput"].what, "measured": 4.5,
        "spread": [0.5, 1.5], "interval": None, "goal": 4.5, "direction": "at least", "verdict": "holds",
        "outcome": "measured", "note": "1 ms against 1 ms",
    }  # fmt: skip
    assert rows["int4_decode"]["measured"] is None and rows["int4_decode"]["verdict"] == "short"
    assert rows["int4_equal_texts"]["verdict"] is None and rows["int4_equal_texts"]["goal"] is None


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--only", "step"], "'step' is not one of"),
        (["--soak", "0"], "--soak"),
        (["--only", "soak"], "bench: --only soak needs --soak MINUTES"),
        (["--only", "steps", "--soak", "30"], "bench: --soak is for the group soak"),
        (["--json", "/nowhere/figures.json"], "bench: /nowhere does not exist"),
        (["--json", "/"], "bench: / is a folder"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_flags_that_cannot_be_used_are_named(bench: Bench, flags: list[str], named: str) -> None:
    done = bench(*flags)
    assert done.exit_code == 2 and named in done.stderr and "Traceback" not in done.stderr
    assert "figure" not in done.stdout


def test_a_model_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(app, ["engine", "--only", "memory", "--model", "./nowhere"])
    assert done.exit_code == 2 and done.stderr.startswith("bench: ./nowhere does not exist"), done.stderr


@pytest.mark.parametrize("group", [Group.STEPS, Group.THROUGHPUT, Group.PRECISION, Group.PREFILL, Group.MEMORY])
async def test_each_group_measures_what_it_says(group: Group) -> None:
    told: list[Figure] = []
    figures = await run(TinyModels(), {group: measures(None)[group]}, SCALE, 0, told.append)
    assert told == figures and sorted(figure.name for figure in figures) == sorted(FIGURES[group])
    measured = {figure.name: figure.measured for figure in figures}
    assert all(figure.outcome is Outcome.MEASURED for figure in figures), figures
    assert all(value is not None and value >= 0 for value in measured.values())
    if group is Group.PRECISION:
        assert measured["int4_agreement"] == measured["int4_equal_texts"] == 1.0
    if group is Group.MEMORY:
        assert measured["cache_after_sessions"] == 0.0


async def test_a_group_that_fails_owes_its_figures_and_the_others_go_on() -> None:
    async def fails(models: Models, scale: Scale, source: random.Random) -> AsyncGenerator[Figure]:
        yield Figure("int4_decode", 3.5)
        raise OSError("gone")

    async def works(models: Models, scale: Scale, source: random.Random) -> AsyncGenerator[Figure]:
        yield Figure("cache_after_sessions", 0.0)

    groups = {Group.PRECISION: fails, Group.MEMORY: works}
    figures = await run(TinyModels(), groups, SCALE, 0, lambda figure: None)
    assert {figure.name: figure.outcome.value for figure in figures} == {
        "int4_decode": "measured", "int4_agreement": "failed", "int4_equal_texts": "failed",
        "cache_after_sessions": "measured",
    }  # fmt: skip
    assert "OSError: gone" in figures[1].note


def test_a_stopwatch_counts_steps_of_the_whole_group_only() -> None:
    watch = Stopwatch(works=2, steps=2)
    for present in (1, 2, 1, 2, 2):
        watch.stamp(present)
        assert not watch.done
    watch.stamp(2)
    assert watch.done and len(watch.seconds) == 2
    apart = Stopwatch(works=2, steps=1)
    with pytest.raises(RuntimeError, match="never shared"):
        for _ in range(1000):
            apart.stamp(1)


async def test_mixed_load_leaves_nothing_and_a_short_soak_gives_no_verdict() -> None:
    class Service:
        def __init__(self, port: int) -> None:
            self.port = port

        def resident_bytes(self) -> int:
            return 2**20

    async with trio(tiny_llama(), None, byte_tokenizer(64)) as services:
        service = Service(int(services.target.address.rpartition(":")[2]))
        figure = await soak._soak(service, 2 / 60, random.Random(0))
        assert (figure.measured, figure.outcome) == (1.0, Outcome.SKIPPED) and "no verdict" in figure.note
        assert services.target_engine.load().sequences == 0
        async with grpc.aio.insecure_channel(services.target.address) as channel:
            stub = target_pb2_grpc.TargetServiceStub(channel)
            model = (await stub.GetTargetModel(target_pb2.GetTargetModelRequest())).model
            load = Load(stub, model, random.Random(1))
            await load.run(1.0)
    assert all(load.counts[kind] for kind in ("sessions", "rounds", "generations")), load.account()


async def test_a_soak_without_minutes_is_skipped() -> None:
    async with aclosing(soak.measure(None, TinyModels(), SCALE, random.Random(0))) as figures:
        assert [(figure.measured, figure.outcome) async for figure in figures] == [(None, Outcome.SKIPPED)]


def test_resident_memory_is_that_of_the_process() -> None:
    assert soak.resident_bytes(os.getpid()) > 2**20
    with pytest.raises(ProcessLookupError):
        soak.resident_bytes(2**22 + 1)
