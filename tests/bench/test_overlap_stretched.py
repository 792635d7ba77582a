"""The bench of drafting ahead where times are stretched: the ratio rule, live, and the capacity of targets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import torch

from bench.goals import Outcome, Verdict, judge, read_goals
from bench.overlap.capacity import LAYOUTS, ONE_DEVICE, Capacities, Capacity, Layout, Load, capacity, formula, measure
from bench.overlap.capacity_tables import capacity_table, formula_line, loads_table
from bench.overlap.costs import Costs
from bench.overlap.device import Device
from bench.overlap.figures import WITHOUT_GOAL, Measured, figures
from bench.overlap.live import Live, LiveTask, Steps, ratio
from bench.overlap.paced import PacedRunner
from bench.overlap.recording import save
from bench.overlap.run import AHEAD, NONE, Sums, Task
from tandem.inference.runner import Block, ModelRunner
from tests.bench.recordings import a_recording, a_text
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer

_CACHE_BYTES = 1 << 22


def steps_of(late: int) -> dict[str, Steps]:
    return {"target": Steps(100, 0), "draft": Steps(100, late)}


def sums(hits: int, misses: int, speed: float = 10.0) -> Sums:
    kinds = {"all kept": 0}
    return Sums(int(speed), 1.0, hits=kinds | {"rejected": hits}, misses=kinds | {"rejected": misses})


def test_stretched_costs_keep_their_ratios_and_their_rows() -> None:
    costs, longer = Costs(wire=0.5), Costs(wire=0.5).stretched(100)
    for rows in (1, 16, 17, 40):
        assert longer.draft_step(rows) == pytest.approx(100 * costs.draft_step(rows))
        assert longer.target_step(rows) == pytest.approx(100 * costs.target_step(rows))
    assert longer.wire == 50


# The ratio rule, live.


def test_a_paced_model_computes_what_it_does_otherwise_and_tells_it_when_the_device_is_done() -> None:
    tokens = [5, 6, 7]
    plain = ModelRunner(tiny_llama(), cache_bytes=_CACHE_BYTES)
    [expected] = plain.forward([Block(plain.open(), tokens, 2)])
    device = Device(lambda positions: 100.0 * positions)
    paced = PacedRunner(tiny_llama(), device, cache_bytes=_CACHE_BYTES)
    began = time.perf_counter()
    [found] = paced.forward([Block(paced.open(), tokens, 2)])
    assert time.perf_counter() - began >= 0.3
    assert torch.equal(found, expected)


def test_a_step_that_takes_longer_than_on_the_device_is_late() -> None:
    device = Device(lambda positions: 0.0)
    device.wait(device.begin(1))
    assert (device.steps, device.late) == (1, 1)
    device.wait(time.perf_counter() + 0.2)
    assert (device.steps, device.late) == (2, 1)


def test_the_ratio_rule_runs_live_and_foresees_what_a_draft_that_agrees_will_say(tmp_path: Path) -> None:
    for name, noise in (("target", 0.0), ("draft", 0.02)):
        folder = tmp_path / name
        tiny_llama(1, vocabulary=257, noise=noise).model.save_pretrained(folder)
        byte_tokenizer()._tokenizer.save(str(folder / "tokenizer.json"))
    prompts = [[65 + number, 66, 67] for number in range(2)]
    task = LiveTask(
        str(tmp_path / "target"), str(tmp_path / "draft"), byte_tokenizer(), prompts, [2, 4], tokens=24, stretch=5.0
    )
    live = asyncio.run(ratio(task, Costs(), lambda text: None))
    assert {key: each.tokens for key, each in live.sides.items()} == {(AHEAD, 2): 2 * 23, (AHEAD, 4): 2 * 23}
    for each in live.sides.values():
        assert sum(each.hits.values()) > 0
        # No faster than the devices, when nothing is stretched any more.
        assert each.seconds >= each.rounds * Costs().target_step(1) / 1e3
    made = {role: steps.made for role, steps in live.steps.items()}
    assert made["target"] > sum(each.rounds for each in live.sides.values())
    assert made["draft"] > 0


def test_a_live_figure_fails_where_steps_were_late_and_has_no_verdict_of_few_outcomes() -> None:
    goals = read_goals("overlap")

    def verdict(live: Live | None) -> tuple[Outcome, Verdict]:
        rows = judge(figures(Measured(live=live)), goals, WITHOUT_GOAL)
        [row] = [each for each in rows if each.figure.name == "hits_ratio"]
        return row.figure.outcome, row.verdict

    many, few, bad = ({(AHEAD, 8): each} for each in (sums(40, 40), sums(5, 5), sums(10, 90)))
    assert verdict(None) == (Outcome.SKIPPED, Verdict.SKIPPED)
    assert verdict(Live(9.0, many, steps_of(late=5))) == (Outcome.MEASURED, Verdict.HOLDS)
    assert verdict(Live(9.0, many, steps_of(late=6))) == (Outcome.FAILED, Verdict.SHORT)
    assert verdict(Live(9.0, many)) == (Outcome.FAILED, Verdict.SHORT)
    assert verdict(Live(9.0, few, steps_of(late=0))) == (Outcome.SKIPPED, Verdict.SKIPPED)
    assert verdict(Live(9.0, bad, steps_of(late=0))) == (Outcome.MEASURED, Verdict.SHORT)


# Capacity.


def loads(*rates: float) -> list[Load]:
    return [Load(2**at, rate, None) for at, rate in enumerate(rates)]


def test_capacity_lies_on_the_line_between_the_last_load_with_the_rate_and_the_first_without() -> None:
    assert capacity(loads(100, 90, 70, 30), 50) == Capacity(6.0, is_least=False)
    assert capacity(loads(100, 50, 40), 50) == Capacity(2.0, is_least=False)
    assert capacity(loads(100, 90), 50) == Capacity(2.0, is_least=True)
    assert capacity(loads(40, 30), 50) == Capacity(0.0, is_least=False)
    # More callers than were too many already prove nothing.
    assert capacity(loads(100, 40, 60), 50).callers < 2


def test_the_formula_is_of_steps_with_so_many_callers() -> None:
    costs = Costs(target=30.0, target_positions=16, target_more=0.2, draft=2.0, draft_rows=16)
    assert formula(costs, 8, 1) == pytest.approx(1 + 8 * 2 / 30)
    assert formula(costs, 8, 20) == pytest.approx(1 + 8 * 4 / (30 + 0.2 * (20 * 9 - 16)))


def test_capacity_is_given_per_target_over_that_of_one_device() -> None:
    found = Capacities(8, 10.0, 50.0, {(ONE_DEVICE, NONE): loads(100, 90, 70, 30)})
    for layout in LAYOUTS[1:]:
        found.loads[layout, AHEAD] = loads(100, 90, 80, 75, 25)  # 12 callers
    ratios = {layout.name: found.over_one_device(layout, AHEAD) for layout in LAYOUTS[1:]}
    assert ratios == {"1 draft, 1 target": 2.0, "1 draft, 2 targets": 1.0, "2 drafts, 1 target": 2.0}
    assert capacity_table(found).row_count == 4 and loads_table(found).row_count == 4 + 3 * 5
    assert "= 1.53" in formula_line(found, Costs(target_more=0.0))


@pytest.mark.parametrize("layout", [ONE_DEVICE, Layout("2 of each", 2, 2)], ids=lambda layout: layout.name)
def test_callers_at_once_complete_the_recorded_texts_on_one_device_and_on_several(
    layout: Layout, tmp_path: Path
) -> None:
    recording = a_recording(*(a_text(20, {3: 1, 9: 2}) for _ in range(2)))
    save(recording, tmp_path / "recording.json")
    task = Task(recording, tmp_path / "recording.json", [3], tokens=12)
    costs = Costs(target=3.0, draft=1.0, wire=0.5)
    found = asyncio.run(measure(task, costs, 2.0, None, lambda text: None, layouts=[layout], loads=[1, 3], more=[]))
    ways = [NONE] if layout.is_shared else [NONE, AHEAD]
    assert {key: [load.callers for load in each] for key, each in found.loads.items()} == {
        (layout, way): [1, 3] for way in ways
    }
    for way in ways:
        assert all(
            1 < load.round_tokens <= 4 and (load.foreseen is None) is (way == NONE) for load in found.loads[layout, way]
        )
        for load in found.loads[layout, way]:
            assert load.busy is None or (load.machine_busy is not None and 0 < load.busy and 0 < load.machine_busy)
    first = found.loads[layout, NONE][0]
    assert found.given == pytest.approx(first.rate / 2)
    # A round gives 4 tokens at most, and takes a step of each device where nothing is drafted ahead.
    assert 0 < first.rate < 4 / (3.0 + 3 * 1.0) * 1e3
