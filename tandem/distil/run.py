"""Makes a draft: all stages in order, each from where it was ended."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch

from tandem.distil import generation, space
from tandem.distil.base import Base, find_base
from tandem.distil.curve import SHARES
from tandem.distil.dataset import Split, count_tokens, part, read_samples, split
from tandem.distil.evaluation import evaluate
from tandem.distil.generation import missing_shards, shard_count
from tandem.distil.loss import Places
from tandem.distil.precision import repeatable, resolve_precision
from tandem.distil.preparing import Prepared, prepare
from tandem.distil.processes import Processes, joined
from tandem.distil.recipe import Recipe
from tandem.distil.result import Result, Trained, write_result
from tandem.distil.shards import shard_path
from tandem.distil.stopping import noted_signals
from tandem.distil.student import Student, make_student
from tandem.distil.training import Interrupted, Lessons, Step, train
from tandem.distil.vocabulary import Vocabulary, choose, unusual
from tandem.distil.work import WorkError, WorkFolder
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.tokenization import Tokenizer


@dataclass(frozen=True, slots=True)
class Order:
    """recipe: with whole paths. folder: of the draft, and below it of the work. answers: folder of the answers; None
    for one of the draft's own. device: `auto`, `cpu`, `cuda` or `cuda:N`. threads: of a CPU; None for all cores. curve:
    whether to train on parts of the data as well. fresh: whether to train anew."""

    recipe: Recipe
    folder: Path
    answers: Path | None = None
    device: str = "auto"
    threads: int | None = None
    curve: bool = False
    fresh: bool = False


class Listener(Protocol):
    def say(self, text: str) -> None:
        """A line."""

    def stage(self, name: str, unit: str, total: int, done: int) -> None:
        """A stage begins. total: of its units; done: before."""

    def advance(self, done: int, note: str = "") -> None:
        """done: of the stage's units, all together."""


def distil(order: Order, listener: Listener) -> Path:
    """Makes the draft and returns its folder.

    Raises what the stages raise: errors of one line each that say what to do; Interrupted where a signal came while it
    trained. Called again with the same order, it goes on where it was.
    """
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    work = WorkFolder(order.folder, order.answers)
    with joined(order.device) as processes:
        run = _Run(order, work, processes, listener)
        if not processes.is_first:
            processes.wait()  # for the first one's look at the folder
            run.go()
            return order.folder
        with work.alone():
            if order.fresh:
                work.forget()
            if work.begin(order.recipe):
                listener.say(f"going on in {order.folder}")
            processes.wait()
            run.go()
    return order.folder


class _Run:
    def __init__(self, order: Order, work: WorkFolder, processes: Processes, listener: Listener) -> None:
        self._order, self._work, self._processes, self._listener = order, work, processes, listener
        self._recipe = order.recipe

    def go(self) -> None:
        processes = self._processes
        base = find_base(self._recipe.target, self._recipe.revision)
        prepared = prepare(self._recipe, base)
        if processes.is_first:
            self._say_space(prepared)
            self._work.note_device(processes.device.type)
        self._generate()
        processes.wait()
        data = self._read()
        vocabulary = self._vocabulary(data, base, prepared)
        points = [self._train(data, share, base, prepared, vocabulary) for share in self._shares()]
        if processes.is_first:
            made_on = self._work.made_on
            result = Result(self._recipe, base, prepared, vocabulary, data, tuple(points), made_on)
            for line in write_result(result, self._order.folder):
                self._listener.say(line)

    def _say_space(self, prepared: Prepared) -> None:
        """Raises WorkError where the disk is too small."""
        wanted = space.needed(self._recipe, prepared.parameters)
        whole, there = shard_count(self._recipe), self._work.answers
        missing = len(missing_shards(self._recipe, there))
        self._listener.say(
            f"disk: about {space.in_words(wanted.answers)} for answers in {there}, of which {whole - missing} of"
            f" {whole} shards are there, and {space.in_words(wanted.training)} for training in {self._work.path}"
        )
        lacking = {there: wanted.answers * missing // whole, self._work.path: wanted.training}
        for folder, count in lacking.items():
            left = space.free(folder)
            if left < count:
                raise WorkError(
                    f"the disk of {folder} has {space.in_words(left)} left, and {space.in_words(count)} are needed;"
                    " lower data.tokens or data.kept, or name another folder"
                )

    def _generate(self) -> None:
        listener = self._listener
        begun = False

        def report(progress: generation.Progress) -> None:
            nonlocal begun
            if not begun:
                listener.stage("answers", "tokens", progress.wanted, progress.tokens)
                begun = True
            dropped = sum(progress.dropped.values())
            listener.advance(progress.tokens, f"{dropped} prompts dropped" if dropped else "")

        answers, device = self._work.answers, self._order.device
        generation.generate(self._recipe, answers, device=device, report=report, note=listener.say)

    def _read(self) -> Split:
        paths = [shard_path(self._work.answers, number) for number in range(shard_count(self._recipe))]
        data = split(read_samples(paths), self._recipe.data.held_out)
        if self._processes.is_first:
            self._work.learn_from({"sequences": len(data.train), "tokens": count_tokens(data.train)})
        return data

    def _vocabulary(self, data: Split, base: Base, prepared: Prepared) -> Vocabulary:
        student = self._recipe.student
        tokenizer = Tokenizer.from_folder(tokenizer_folder(base.folder))
        vocabulary = choose(
            data.train, student.vocabulary, prepared.vocabulary_size, ends=tokenizer.end_token_ids,
            others=unusual(tokenizer),
        )  # fmt: skip
        self._listener.say(
            f"the draft can say {len(vocabulary.token_ids):,} of {prepared.vocabulary_size:,} tokens, which have"
            f" {vocabulary.mass:.2%} or more of the target's probability and {vocabulary.said:.2%} of what it said"
        )
        return vocabulary

    def _shares(self) -> Sequence[float]:
        """Of the data that is trained on; all of it is the last."""
        return (*(SHARES if self._order.curve else ()), 1.0)

    def _train(
        self, data: Split, share: float, base: Base, prepared: Prepared, vocabulary: Vocabulary
    ) -> Trained:
        recipe, processes, listener = self._recipe, self._processes, self._listener
        device = processes.device
        student = self._student(base, prepared, vocabulary).to(device)
        places = Places(vocabulary.token_ids.to(device), prepared.vocabulary_size)
        lessons = Lessons(part(data.train, share), data.held_out, places, self._work.training(share))
        name = "training" if share == 1 else f"training on {Fraction(share)} of the answers"

        def tell(step: Step) -> None:
            if not step.is_news:
                listener.stage(name, "steps", step.steps, step.number)
            listener.advance(step.number, _in_words(step))

        try:
            with noted_signals() as noted:
                course = train(
                    student, lessons, recipe.training, seed=recipe.seed, processes=processes,
                    stops=lambda: bool(noted), tell=tell,
                )  # fmt: skip
        except Interrupted:
            raise Interrupted(noted[0] if noted else signal.SIGINT) from None
        listener.stage(f"measuring on {len(data.held_out):,} answers that were held out", "", 0, 0)
        with repeatable(device):
            held_out = evaluate(
                student, data.held_out, places, total_variation=recipe.training.total_variation,
                batch_tokens=recipe.training.batch_tokens, processes=processes,
                precision=resolve_precision(recipe.training.precision, device),
            )  # fmt: skip
        own = {name: weight.detach().cpu() for name, weight in student.own().items()}
        return Trained(count_tokens(lessons.train), course, held_out, own)

    def _student(self, base: Base, prepared: Prepared, vocabulary: Vocabulary) -> Student:
        target = load_model(base.folder, dtype="auto", device="cpu").model
        student = make_student(target, prepared.shape, vocabulary.token_ids, self._recipe.student.kind)
        if prepared.start is not None:
            student.load(prepared.start)
        return student


def _in_words(step: Step) -> str:
    if not step.reports:
        return ""
    report = step.reports[-1]
    held_out = report["held_out"]
    return (
        f"loss {report['train_loss']:.3f}, held out {held_out['loss']:.3f}, agreement"
        f" {held_out['greedy_agreement']:.3f}, 1 - TV {held_out['one_minus_tv']:.3f}"
    )
