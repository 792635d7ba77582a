"""How far a draft is: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tandem.distil.run import Listener

#: Between two lines where there is no terminal.
_LINE_SECONDS = 15.0


@contextmanager
def listener(console: Console, is_first: bool) -> Iterator[Listener]:
    """console: where it is shown. is_first: of several processes only the first one says something."""
    if not is_first:
        yield _Silence()
    elif not console.is_terminal:
        lines = _Lines(console)
        try:
            yield lines
        finally:
            lines.flush()
    else:
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), _Count(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=console, speed_estimate_period=120) as progress:
            yield _Bars(progress)


class _Silence:
    def say(self, text: str) -> None:
        pass

    def stage(self, name: str, unit: str, total: int, done: int) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        pass


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, unit: str, total: int, done: int) -> None:
        if self._task is not None:
            self._progress.stop_task(self._task)
        # Without a total a bar moves to and fro.
        self._task = self._progress.add_task(name, total=total or None, completed=done, note="", unit=unit)

    def advance(self, done: int, note: str = "") -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=done, note=note)


class _Count(ProgressColumn):
    """Units done, and how many in a second."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        unit = task.fields["unit"]
        speed = task.finished_speed or task.speed
        rate = f", {_number(speed)} {unit}/s" if speed else ""
        return Text(f"{int(task.completed):,} of {int(task.total):,} {unit}{rate}")


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._name, self._unit, self._total, self._before = "", "", 0, 0
        self._began = self._said = 0.0
        self._pending = ""

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, unit: str, total: int, done: int) -> None:
        self.flush()
        self._name, self._unit, self._total, self._before = name, unit, total, done
        self._began = self._said = time.monotonic()
        self.say(f"{name}: {done:,} of {total:,} {unit}" if total else name)

    def advance(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        parts = [f"{self._name}: {done:,} of {self._total:,} {self._unit} ({done / max(self._total, 1):.0%})"]
        speed = (done - self._before) / max(now - self._began, 1e-9)
        if speed > 0:
            left = max(self._total - done, 0) / speed
            parts.append(f"{_number(speed)} {self._unit}/s, {_time(left)} left")
        self._pending = "; ".join([*parts, *([note] if note else [])])
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            self.flush()

    def flush(self) -> None:
        """Says how far it was at last."""
        if self._pending:
            self.say(self._pending)
        self._pending = ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
