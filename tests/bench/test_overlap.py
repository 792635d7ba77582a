"""The bench of drafting ahead: what is worked out on paper, and that services replay what was recorded."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.goals import Outcome, judge, read_goals
from bench.overlap.calibration import calibrate
from bench.overlap.costs import Costs
from bench.overlap.device import Device
from bench.overlap.figures import FAR, NEAR, NOISE, SMALL, WITHOUT_GOAL, Measured, figures
from bench.overlap.paper import Played, Policy, geometric, ideal, main_line, play, synchronous
from bench.overlap.record import Distributions, Subject
from bench.overlap.recording import CLASSES, FILLER, PROMPT_LENGTH, Recording, Row, Tail, Text, load, save
from bench.overlap.replay import Lines, ReplayRunner, draft_rows, target_rows
from bench.overlap.run import AHEAD, MAIN_LINE, NONE, Bound, Sums, Task, alone, check_text
from tandem.cli.errors import CliError
from tandem.gumbel import gumbel_argmax_rows
from tandem.inference.runner import Block
from tandem.noise import NoiseStream
from tests.bench.recordings import a_recording, a_text

ROOT = Path(__file__).parents[2]
COSTS = Costs(target=30.0, draft=2.0, wire=1.0)


def drawn_recording(temperature: float, tokens: int = 40) -> Recording:
    """Of distributions by chance, which know of no text: as recording draws from them."""
    subject = Subject("a draft", temperature, seed=5)
    source = torch.Generator().manual_seed(1)
    target = torch.randn(tokens + 1, 2 * CLASSES, generator=source) * 3
    draft = target + torch.randn(target.shape, generator=source)
    text = [token % CLASSES for token in Distributions(target[:tokens], range(tokens), subject).tokens()]
    rows = Distributions(draft, range(tokens + 1), subject).rows()
    tails = {}
    for kept, token in enumerate(text):
        if rows[kept].tokens[0] != token:
            own = Distributions(torch.randn(4, 2 * CLASSES, generator=source) * 3, range(kept + 1, kept + 5), subject)
            said = [each % CLASSES for each in own.tokens()]
            tails[kept] = Tail([rows[kept].tokens[0], *said[:-1]], own.rows())
    return Recording("a draft", temperature, 5, [Text(text, rows, tails)])


# On paper.


def test_a_draft_that_is_asked_each_time_costs_its_steps_and_two_ways() -> None:
    recording = a_recording(a_text(12, {2: 1}))
    # 2 kept and a correction, then 2 kept and a bonus: 2 rounds of 2 * 1 + 2 * 2 + 30.
    assert synchronous(recording, COSTS, 2, tokens=6) == pytest.approx(6 / 72 * 1e3)
    assert ideal(recording, COSTS, 2, tokens=6) == pytest.approx(6 / 60 * 1e3)
    assert ideal(recording, COSTS, 0, tokens=6) == pytest.approx(1 / 30 * 1e3)


def test_without_look_ahead_paper_and_arithmetic_agree() -> None:
    recording = a_recording(a_text(60, {2: 1, 3: 2, 17: 5, 30: 1}))
    for length in (1, 3, 8):
        played = play(recording, COSTS, Policy(length, length, rows=1), tokens=40)
        assert played.speed == pytest.approx(synchronous(recording, COSTS, length, tokens=40))
        assert played.hit_rate == 0


def test_blocks_that_were_foreseen_leave_the_targets_time_alone() -> None:
    recording = a_recording(a_text(80, {}))
    played = play(recording, COSTS, Policy(4, 4, allowed=main_line), tokens=40)
    # One block of 4 is asked for, 8 rounds of 5 tokens follow each other.
    assert played.time == pytest.approx(2 * 1 + 4 * 2 + 8 * 30)
    assert played.hit_rate == 1 and played.outcomes == {False: 0, True: 7}


def test_the_main_line_foresees_no_rejection_and_a_branch_does() -> None:
    recording = a_recording(a_text(80, {at: 1 for at in range(2, 80, 4)}))
    main = play(recording, COSTS, Policy(6, 6, allowed=main_line), tokens=40)
    assert main.hits[False] == 0 and main.outcomes[False] > 0
    both = play(recording, COSTS, Policy(6, 6), tokens=40)
    assert both.hits[False] == both.outcomes[False]
    assert both.speed > main.speed


def test_a_token_that_is_none_of_the_drafts_next_best_is_not_foreseen() -> None:
    text = a_text(80, {at: 1 for at in range(2, 80, 4)})
    unseen = [Row([600 + rank for rank in range(8)], row.log_probabilities, row.entropy) for row in text.rows]
    hidden = replace(text, rows=[unseen[at] if text.errs(at) else row for at, row in enumerate(text.rows[:-1])])
    played = play(a_recording(hidden), COSTS, Policy(6, 6), tokens=40)
    assert played.hits[False] == 0 and played.outcomes[False] > 0


def test_over_a_wire_longer_than_the_targets_step_every_other_block_is_asked_for() -> None:
    # What a block that was taken may become, the draft learns too late to say anything of it.
    played = play(a_recording(a_text(120, {})), Costs(wire=40.0), Policy(4, 4, allowed=main_line), tokens=60)
    assert played.hit_rate == pytest.approx(0.5, abs=0.1)


def test_ssds_fan_out_falls_with_the_candidates_before_it() -> None:
    allowed = geometric(0.8, 32)
    fans = [sum(allowed(4, kept, rank) for rank in range(8)) for kept in range(5)]
    assert fans[:4] == sorted(fans[:4], reverse=True) and fans[4] > fans[3] and fans[0] > fans[3]


def test_calibration_gives_shares_of_what_was_rejected_by_rank() -> None:
    found = calibrate(a_recording(a_text(40, {4: 1, 9: 1, 20: 3, 30: 1})))
    assert list(found.shares[:3]) == [0.75, 0, 0.25]
    assert found.acceptance(0.1) > 0.8 > 0.5 > found.acceptance(2.0)
    assert found.acceptance(-1) == found.acceptances[0] and found.acceptance(99) == found.acceptances[-1]


# The replay.


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    recording = drawn_recording(0.0)
    save(recording, tmp_path / "made" / "a.json")
    assert load(tmp_path / "made" / "a.json") == recording
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match="no recording"):
        load(tmp_path / "b.json")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_replay_draws_is_what_was_recorded(temperature: float) -> None:
    recording = drawn_recording(temperature)
    [text] = recording.texts
    assert 0 < text.agreement < 1  # or the test says nothing
    lines = Lines(recording)
    runner = ReplayRunner(draft_rows(recording, lines), lines, Device(lambda positions: 0.0))
    sequence = runner.open()
    [logits] = runner.forward([Block(sequence, [0] * PROMPT_LENGTH + list(text.tokens), len(text.tokens) + 1)])
    if temperature:
        draws = gumbel_argmax_rows(logits.log_softmax(-1), NoiseStream(recording.seed), PROMPT_LENGTH)
    else:
        draws = logits.argmax(-1)
    assert draws.tolist() == [row.tokens[0] for row in text.rows]


def test_a_replay_knows_the_text_the_drafts_own_turns_and_nothing_else() -> None:
    recording = a_recording(a_text(20, {3: 1}), a_text(20, {}))
    lines = Lines(recording)
    drafts = ReplayRunner(draft_rows(recording, lines), lines, Device(lambda positions: 0.0))
    targets = ReplayRunner(target_rows(recording, lines), lines, Device(lambda positions: 0.0))

    def says(runner: ReplayRunner, said: list[int], rows: int, text: int = 0) -> list[int]:
        sequence = runner.open()
        [logits] = runner.forward([Block(sequence, [text] * PROMPT_LENGTH + said, rows)])
        return logits.argmax(-1).tolist()

    assert says(targets, [1, 2, 3, 4], 5) == [1, 2, 3, 4, 5]
    assert says(drafts, [1, 2, 3, 4], 5) == [1, 2, 3, 600, 5]
    assert says(drafts, [1, 2, 3, 600, 700], 3) == [600, 700, 701]
    assert says(targets, [1, 2, 3, 600, 700], 3) == [4, FILLER, FILLER]
    assert says(drafts, [1, 2, 3, 601], 2) == [600, FILLER]
    assert says(drafts, [1, 2, 3, 600, 701], 2) == [700, FILLER]
    assert says(drafts, [1, 2, 3], 1, text=1) == [4]
    assert says(drafts, [1, 2, 3], 1, text=2) == [FILLER]


def test_a_step_ends_when_the_device_is_done_and_not_before() -> None:
    assert Costs().target_step(16) == 30 and Costs().target_step(26) == pytest.approx(32)
    assert Costs().draft_step(1) == 2 and Costs().draft_step(16) == 2 and Costs().draft_step(17) == 4
    recording = a_recording(a_text(20, {}))
    lines = Lines(recording)
    runner = ReplayRunner(target_rows(recording, lines), lines, Device(lambda positions: 10.0 * positions))
    began = time.perf_counter()
    runner.forward([Block(runner.open(), [0] * 3, 1)])
    assert time.perf_counter() - began >= 0.03


def test_a_text_that_is_another_than_recorded_is_an_error() -> None:
    task = Task(a_recording(a_text(20, {})), Path("none"), [2], tokens=3)
    check_text(task, 0, [1, 2, 3])
    for wrong in ([1, 9, 3], [1, 2]):
        with pytest.raises(CliError, match="not replayed"):
            check_text(task, 0, wrong)


def test_a_wire_is_late_in_both_directions_and_loses_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "bench.overlap.delay", address, "20"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as wire:
            try:
                assert wire.stdout is not None
                with socket.create_connection(("127.0.0.1", int(wire.stdout.readline())), timeout=60) as caller:
                    began = time.perf_counter()
                    caller.sendall(b"?")
                    assert caller.recv(1) == b"?"
                    assert time.perf_counter() - began >= 0.04
                    sent = bytes(range(256)) * 2000
                    threading.Thread(target=caller.sendall, args=(sent,), daemon=True).start()
                    received = b""
                    while len(received) < len(sent):
                        received += caller.recv(1 << 16)
                    assert received == sent
                    caller.shutdown(socket.SHUT_WR)
                    assert caller.recv(1) == b""
            finally:
                wire.terminate()


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_services_replay_what_was_recorded_over_a_slow_wire(temperature: float, tmp_path: Path) -> None:
    recording = drawn_recording(temperature)
    save(recording, tmp_path / "recording.json")
    task = Task(recording, tmp_path / "recording.json", [3], texts=1, tokens=24)
    costs = Costs(target=1.0, draft=0.5, wire=1.0)
    sides = asyncio.run(alone(task, costs, [NONE, AHEAD], lambda text: None))  # compares the texts
    [text] = recording.texts
    assert {key: (sums.tokens, sums.rounds > 0) for key, sums in sides.items()} == {
        (NONE, 3): (23, True), (AHEAD, 3): (23, True),
    }  # fmt: skip
    assert 0 < text.agreement < 1


# Figures.


def sums(speed: float, hits: int = 0, misses: int = 0, asked: float = 0.0) -> Sums:
    kinds = {"all kept": 0, "rejected": 0}
    return Sums(
        tokens=int(speed), seconds=1.0, hits=kinds | {"rejected": hits}, misses=kinds | {"rejected": misses},
        asked=[asked] * 400,
    )  # fmt: skip


def test_each_way_is_measured_at_its_own_best_length() -> None:
    near = {
        (NONE, 2): sums(90), (NONE, 8): sums(100), (MAIN_LINE, 8): sums(120), (AHEAD, 2): sums(100),
        (AHEAD, 8): sums(160, hits=85, misses=15),
    }  # fmt: skip
    measured = Measured(
        sides={
            (NOISE, 0.0, NEAR): near, (NOISE, 0.0, FAR): near, (SMALL, 0.0, NEAR): near, (NOISE, 1.0, NEAR): near,
        },
        bounds={(NOISE, 0.0): Bound(200, 22), (SMALL, 0.0): Bound(250, 9)},
        together={NONE: sums(1, asked=10.0), AHEAD: sums(1, asked=11.0)},
        free=({(NONE, 8): sums(190)}, Bound(200, 22)),
    )  # fmt: skip
    found = {figure.name: figure for figure in figures(measured)}
    assert found["of_ideal_noise_05_near"].measured == pytest.approx(0.8)
    assert found["of_ideal_4_layers_near"].measured == pytest.approx(0.64)
    assert found["over_none_near"].measured == pytest.approx(1.6)
    assert found["over_main_line"].measured == pytest.approx(160 / 120)
    assert found["hits_greedy"].measured == pytest.approx(0.85)
    assert found["asked_p99"].measured == pytest.approx(1.1)
    assert found["ideal_run"].measured == pytest.approx(0.95)
    assert judge(found.values(), read_goals("overlap"), WITHOUT_GOAL)


def test_what_was_not_measured_is_no_verdict_and_a_draft_that_foresees_nothing_falls_short() -> None:
    assert {figure.outcome for figure in figures(Measured())} == {Outcome.SKIPPED}
    sides = {(way, 2): sums(10) for way in (NONE, MAIN_LINE, AHEAD)}
    measured = Measured(sides={(NOISE, 0.0, NEAR): sides}, bounds={(NOISE, 0.0): Bound(20, 5)})
    assert {figure.name: figure.outcome for figure in figures(measured)}["hits_greedy"] is Outcome.FAILED
    few = Measured(together={NONE: Sums(asked=[1.0]), AHEAD: Sums(asked=[1.0])})
    assert {figure.name: figure.outcome for figure in figures(few)}["asked_p99"] is Outcome.SKIPPED


def test_played_counts_are_rates_over_outcomes() -> None:
    played = Played(tokens=10, time=100.0, hits={False: 1, True: 2}, outcomes={False: 2, True: 2})
    assert played.speed == pytest.approx(100) and played.hit_rate == pytest.approx(0.75)
