"""A draft learns; and what it comes to depends neither on how often it was ended nor on how many processes share it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.distil.checkpoint import CheckpointError, Course
from tandem.distil.student import Student
from tandem.distil.training import Interrupted, Step, TrainingError, rate, train
from tests.distil.answers import CPU, lessons, llama, settings, student_of, write
from tests.models.checks import refused

TARGET = llama()
SAMPLES = write(TARGET, 120)


def taught(
    folder: Path, stops: Callable[[], bool] = lambda: False, **facts: Any
) -> tuple[Student, Course, list[Step]]:
    student, told = student_of(TARGET), []
    course = train(
        student, lessons(SAMPLES, folder), settings(**facts), seed=7, processes=CPU, stops=stops, tell=told.append
    )
    return student, course, told


def weights(student: Student) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in student.own().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Course]:
    """Of a training that was never ended."""
    student, course, _ = taught(tmp_path_factory.mktemp("whole"))
    return weights(student), course


def test_it_learns_to_foresee_what_it_never_learnt_from(tmp_path: Path) -> None:
    many = lessons(write(TARGET, 1000), tmp_path)
    facts = settings(epochs=3, learning_rate=1e-2, batch_tokens=512, report_steps=10)
    course = train(student_of(TARGET), many, facts, seed=7, processes=CPU)
    first, last = course.reports[0], course.reports[-1]
    assert last["held_out"]["loss"] < 0.8 * first["held_out"]["loss"]
    assert last["held_out"]["one_minus_tv"] > 1.1 * first["held_out"]["one_minus_tv"]
    assert last["train_loss"] < 0.7 * first["train_loss"]


def test_a_report_is_made_every_so_many_steps_and_at_the_end(whole: tuple[Any, Course], tmp_path: Path) -> None:
    course = whole[1]
    steps = [report["step"] for report in course.reports]
    assert steps == [*range(5, course.step, 5), course.step]
    told = taught(tmp_path)[2]
    assert [step.number for step in told] == list(range(course.step + 1))
    assert [step.is_news for step in told] == [False] + [True] * course.step
    assert told[-1].tokens == course.tokens == 2 * sum(len(s.answer) for s in lessons(SAMPLES, tmp_path).train)


@pytest.mark.parametrize("end", [1, 3, 5])
def test_ended_anywhere_and_begun_again_it_is_the_same(
    end: int, whole: tuple[dict[str, torch.Tensor], Course], tmp_path: Path
) -> None:
    for _ in range(3):  # ended three times
        asked: list[None] = []

        def stops(asked: list[None] = asked) -> bool:
            asked.append(None)
            return len(asked) == end

        with pytest.raises(Interrupted):
            taught(tmp_path, stops)
    student, course, told = taught(tmp_path)
    assert told[0].number == 3 * end
    assert same(weights(student), whole[0])
    assert course == whole[1]


def test_it_goes_on_from_what_was_last_kept_where_nothing_was_kept_at_the_end(
    whole: tuple[dict[str, torch.Tensor], Course], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.number == 8:
            raise Killed

    with pytest.raises(Killed):
        train(
            student_of(TARGET), lessons(SAMPLES, tmp_path), settings(checkpoint_seconds=1e-9), seed=7, processes=CPU,
            tell=kill,
        )  # fmt: skip
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["step-00000007", "step-00000008"]
    (tmp_path / "step-00000008.safetensors").write_bytes(b"cut off")
    student, course, told = taught(tmp_path)
    assert told[0].number == 7
    assert same(weights(student), whole[0])
    assert course.reports == whole[1].reports


def test_a_training_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    student, course, _ = taught(tmp_path)
    again, found, told = taught(tmp_path)
    assert found == course and [step.number for step in told] == [course.step]
    assert same(weights(again), weights(student))


def test_checkpoints_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("step-00000003.safetensors").write_bytes(b"no")
    with refused(CheckpointError, "step-00000003.safetensors", "--fresh"):
        taught(tmp_path)


def test_so_are_those_of_a_draft_of_another_shape(tmp_path: Path) -> None:
    taught(tmp_path)
    with refused(CheckpointError, "it is of another draft", "--fresh"):
        train(student_of(TARGET, 3), lessons(SAMPLES, tmp_path), settings(), seed=7, processes=CPU)


def test_a_loss_that_is_not_finite_ends_it_and_is_not_kept(tmp_path: Path) -> None:
    with refused(TrainingError, "the loss is not finite after step 5", "training.learning_rate"):
        taught(tmp_path, learning_rate=1e30)
    assert not list(tmp_path.iterdir())


def test_the_seed_decides_the_order(whole: tuple[dict[str, torch.Tensor], Course], tmp_path: Path) -> None:
    student = student_of(TARGET)
    train(student, lessons(SAMPLES, tmp_path), settings(), seed=8, processes=CPU)
    assert not same(weights(student), whole[0])


def test_the_rate_rises_evenly_and_falls_as_a_cosine() -> None:
    rates = [rate(step, 110, 0.1) for step in range(110)]
    assert rates[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert rates[11] == 1.0 and rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert rates[60] == pytest.approx((1 + math.cos(math.pi * 49 / 99)) / 2)
    assert 0 < rates[-1] < 0.001
    assert rate(0, 1, 0.0) == 1.0


@pytest.mark.parametrize("batch_tokens", [256, 30], ids=["many sequences a step", "often only one"])
def test_two_processes_come_to_what_one_does(batch_tokens: int, tmp_path: Path) -> None:
    """On gloo, as torchrun starts them where there is no GPU; the same batches, each process with half of the sequences
    of a step."""
    # bfloat16 would round the sums of the two parts otherwise than that of the whole.
    facts = {"batch_tokens": batch_tokens, "epochs": 0.5, "report_steps": 2, "precision": "float32"}
    one = taught(tmp_path / "one", **facts)[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "tests.distil.two_processes", str(tmp_path), json.dumps(facts)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["digest"] == second["digest"]  # they have the same draft
    assert first["reports"] == second["reports"] and len(one.reports) > 1
    for report, expected in zip(first["reports"], one.reports, strict=True):
        assert (report["step"], report["tokens"]) == (expected["step"], expected["tokens"])
        assert report["train_loss"] == pytest.approx(expected["train_loss"], abs=2e-3)
        assert report["held_out"]["loss"] == pytest.approx(expected["held_out"]["loss"], abs=2e-3)
    assert len(list((tmp_path / "training").iterdir())) == 1  # only one of them keeps it
