"""Teaches a draft: AdamW with warm-up and cosine, from where it was ended."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tandem.distil import checkpoint
from tandem.distil.batches import Batch, plan, prefetched
from tandem.distil.checkpoint import Course
from tandem.distil.dataset import count_tokens, part
from tandem.distil.evaluation import as_json, evaluate
from tandem.distil.loss import Places, divergences, loss
from tandem.distil.precision import computing, repeatable, resolve_precision
from tandem.distil.processes import Processes
from tandem.distil.recipe import Training
from tandem.distil.shards import Sample
from tandem.distil.student import Student

_BETAS = (0.9, 0.95)
#: Of all gradients together; longer ones are shortened.
_LONGEST_GRADIENT = 1.0
#: Answers' tokens that a report measures on; the end measures on all.
_REPORT_TOKENS = 32_768


class TrainingError(ValueError):
    """The training came to nothing; the message says what to change."""


class Interrupted(Exception):
    """The training was asked to stop; where it stood is kept. signal_number: of what asked."""

    def __init__(self, signal_number: int = signal.SIGINT) -> None:
        super().__init__(f"ended by signal {signal_number}")
        self.signal_number = signal_number


@dataclass(frozen=True, slots=True)
class Step:
    """After a step, or before the first of this run, which is no news. number: of steps done, of `steps`. tokens: of
    answers learnt from so far. reports: made so far, as metrics have them."""

    number: int
    steps: int
    tokens: int
    reports: Sequence[Mapping[str, Any]]
    is_news: bool


@dataclass(frozen=True, slots=True)
class Lessons:
    """What is learnt from, and what the draft is measured on. folder: of checkpoints."""

    train: Sequence[Sample]
    held_out: Sequence[Sample]
    places: Places
    folder: Path


def train(
    student: Student,
    lessons: Lessons,
    settings: Training,
    *,
    seed: int,
    processes: Processes,
    stops: Callable[[], bool] = lambda: False,
    tell: Callable[[Step], None] = lambda step: None,
) -> Course:
    """Trains the student, which is on the device of `processes`, to the end.

    What it comes to depends on data, settings, seed and number of processes alone, on the same machine with the same
    number of threads; not on how often it was ended and begun again. stops: asked after each step; then Interrupted is
    raised, once a checkpoint is written. Raises TrainingError where the loss is not finite, and CheckpointError.
    """
    with repeatable(processes.device):
        return _Trainer(student, lessons, settings, seed, processes).run(stops, tell)


class _Trainer:
    def __init__(
        self, student: Student, lessons: Lessons, settings: Training, seed: int, processes: Processes
    ) -> None:
        self._student, self._lessons, self._settings, self._processes = student, lessons, settings, processes
        self._precision = resolve_precision(settings.precision, processes.device)
        lengths = [len(sample.tokens) for sample in lessons.train]
        self._steps = plan(lengths, seed=seed, epochs=settings.epochs, batch_tokens=settings.batch_tokens)
        # Matrices first: the order in which the optimiser's groups have them.
        self._own = dict(sorted(student.own().items(), key=lambda entry: entry[1].dim() < 2))
        self._optimiser = _optimiser(self._own, settings)
        self._course = checkpoint.restore(lessons.folder, self._own, self._optimiser) or Course()
        self._model = processes.wrap(student)
        self._measured = _first_tokens(lessons.held_out, _REPORT_TOKENS)
        # Each process sums its own part; what was summed before is the first one's.
        before = self._course.loss if processes.is_first else 0.0
        self._loss = torch.tensor(before, dtype=torch.float64, device=processes.device)

    def run(self, stops: Callable[[], bool], tell: Callable[[Step], None]) -> Course:
        course, settings, processes = self._course, self._settings, self._processes
        tell(self._now(is_news=False))
        saved = time.monotonic()
        for batch in prefetched(self._lessons.train, self._shares(course.step), processes.device):
            self._learn(batch, self._steps[course.step])
            course.step += 1
            last = course.step == len(self._steps)
            if last or course.step % settings.report_steps == 0:
                self._report()
            stop, due = processes.any(stops(), time.monotonic() - saved > settings.checkpoint_seconds)
            if last or stop or due:
                self._save()
                saved = time.monotonic()
            tell(self._now(is_news=True))
            if stop and not last:
                raise Interrupted
        return course

    def _now(self, *, is_news: bool) -> Step:
        course = self._course
        return Step(course.step, len(self._steps), course.tokens, tuple(course.reports), is_news)

    def _shares(self, start: int) -> list[list[int]]:
        """This process's sequences of each step that is left. Where there are fewer sequences than processes, some get
        one that counts for nothing: all have to take part."""
        rank, count = self._processes.rank, self._processes.count
        return [step[rank::count] or step[:1] for step in self._steps[start:]]

    def _learn(self, batch: Batch, step: list[int]) -> None:
        settings, processes = self._settings, self._processes
        answers = sum(len(self._lessons.train[index].answer) for index in step)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate(self._course.step, len(self._steps), settings.warm_up)
        with computing(processes.device, self._precision):
            logits = self._model(batch.tokens, batch.places)
        found = divergences(logits, self._lessons.places(batch.top_ids), batch.top_log_probs)
        total = loss(found, settings.total_variation)
        if (distance := self._student.state_distance) is not None:
            total = total + settings.feature_distance * distance.sum()
        if processes.rank >= len(step):
            total = total * 0
        # Gradients become the mean over processes; what is wanted is the mean over the answers of all of them.
        (total * (processes.count / answers)).backward()
        nn.utils.clip_grad_norm_(self._own.values(), _LONGEST_GRADIENT)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._loss += total.detach()
        self._course.places += answers
        self._course.tokens += answers

    def _report(self) -> None:
        course, settings = self._course, self._settings
        loss_sum = self._processes.total(self._loss.clone()).item()
        self._check(loss_sum)
        held_out = evaluate(
            self._student, self._measured, self._lessons.places, total_variation=settings.total_variation,
            batch_tokens=settings.batch_tokens, precision=self._precision, processes=self._processes,
        )  # fmt: skip
        report = {"step": course.step, "tokens": course.tokens, "train_loss": round(loss_sum / course.places, 4)}
        course.reports.append({**report, "held_out": as_json(held_out)})
        course.places = 0
        self._loss.zero_()

    def _save(self) -> None:
        loss_sum = self._processes.total(self._loss.clone()).item()
        self._check(loss_sum)
        if self._processes.is_first:
            self._course.loss = loss_sum
            checkpoint.save(self._lessons.folder, self._course, self._own, self._optimiser)

    def _check(self, loss_sum: float) -> None:
        if not math.isfinite(loss_sum):
            raise TrainingError(
                f"the loss is not finite after step {self._course.step}; lower training.learning_rate, or train with"
                " precision float32"
            )


def rate(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest learning rate at a step: rises evenly over the first steps, then falls to 0 as a cosine."""
    rising = max(round(warm_up * steps), 1)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2


def _optimiser(own: Mapping[str, nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Vectors (norms, biases) do not decay."""
    matrices = [weight for weight in own.values() if weight.dim() >= 2]
    vectors = [weight for weight in own.values() if weight.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}
    ]  # fmt: skip
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=_BETAS, fused=True)


def _first_tokens(samples: Sequence[Sample], tokens: int) -> list[Sample]:
    """With about so many tokens of answers; at least one."""
    return part(samples, min(tokens / count_tokens(samples), 1.0))
