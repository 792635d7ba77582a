"""Makes a draft: all stages in order, each from where it was ended."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save

from tandem.distil import space
from tandem.distil.base import Base, find_base
from tandem.distil.curve import SHARES
from tandem.distil.dataset import Split, count_tokens, part, read_samples, split
from tandem.distil.evaluation import Evaluation, evaluate
from tandem.distil.files import write_whole
from tandem.distil.generation import generate
from tandem.distil.loss import Places
from tandem.distil.precision import resolve_precision
from tandem.distil.preparing import Prepared, prepare
from tandem.distil.processes import Processes, joined
from tandem.distil.recipe import Recipe
from tandem.distil.result import Point, Result, write_result
from tandem.distil.shards import Sample
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
        recipe, processes = self._recipe, self._processes
        base = find_base(recipe.target, recipe.revision)
        prepared = prepare(recipe, base)
        if processes.is_first:
            self._say_space(prepared)
            self._work.note_device(processes.device.type)
        self._generate(base)
        processes.wait()
        data = split(read_samples(self._work.answers), recipe.data.held_out)
        vocabulary = self._vocabulary(data, base, prepared)
        processes.wait()
        points = [self._train(data, share, base, prepared, vocabulary) for share in self._shares()]
        if processes.is_first:
            whole = points[-1]
            result = Result(
                recipe=recipe, base=base, prepared=prepared, vocabulary=vocabulary, data=data, points=points,
                own=whole.own, made_on=self._work.made_on,
            )  # fmt: skip
            self._listener.say(write_result(result, self._order.folder))

    def _shares(self) -> Sequence[float]:
        """Of the data that is trained on; all of it is the last."""
        return (*(SHARES if self._order.curve else ()), 1.0)
