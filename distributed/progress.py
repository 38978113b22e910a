"""What a person sees while a stage trains: a live bar on a terminal, one line per epoch elsewhere. Rank 0 only."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

LOSS_EVERY = 10
WORK_EVERY = 20

Say = Callable[[str], None]
"""Where lines for a person go: print, or `silent`."""


def silent(line: str) -> None:
    """Let a line go nowhere."""


class _Live:
    """A bar that is drawn on a terminal and nowhere else; `console` also takes lines. Silent unless `visible`."""

    def __init__(self, columns: Sequence[ProgressColumn], visible: bool) -> None:
        self.console = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), quiet=not visible)
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.live = visible and self.console.is_terminal

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bar.stop()


class EpochProgress(_Live):
    """Shows epochs as they go; `console` also takes any other line. Silent where `visible` is False."""

    def __init__(self, name: str, epochs: int, steps_per_epoch: int, batch_size: int, visible: bool) -> None:
        self.name, self.epochs, self.steps_per_epoch, self.batch_size = name, epochs, steps_per_epoch, batch_size
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()]
        super().__init__([*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}")], visible)
        self.loss = ""
        self.task = self.bar.add_task(name, total=epochs * steps_per_epoch, note="")

    def step(self, done: int, loss: Tensor, images_per_s: float) -> None:
        """Move the bar to `done` steps of all; the loss is read now and then: the host waits for it."""
        if self.live:
            if done % LOSS_EVERY == 0:
                self.loss = f"loss {float(loss):.3f}"
            number = min((done - 1) // self.steps_per_epoch + 1, self.epochs)
            note = f"epoch {number}/{self.epochs}  {self.loss}  {images_per_s:.0f} images/s"
            self.bar.update(self.task, completed=done, note=note)

    def epoch(
        self, number: int, losses: Mapping[str, float], figures: Mapping[str, float], images_per_s: float
    ) -> None:
        """Print one line for the finished epoch `number` (from 1)."""
        means = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        results = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        left = (self.epochs - number) * self.steps_per_epoch * self.batch_size / images_per_s
        self.console.print(
            f"{self.name:8s} epoch {number}/{self.epochs}  {means}  |  validation {results}  |  "
            f"{images_per_s:.0f} images/s, {clock(left)} left"
        )


class WorkProgress(_Live):
    """Shows work that is done piece by piece: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, visible: bool) -> None:
        columns = [BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn()]
        super().__init__([*columns, TextColumn("{task.description}")], visible)
        self.task = self.bar.add_task("")
        self.began, self.told = time.monotonic(), 0

    def step(self, what: str, done: int, total: int) -> None:
        """Say what is done now; with a `total`, that `done` of its pieces are, since a step without."""
        if not total:
            self.began, self.told = time.monotonic(), 0
        if self.live:
            self.bar.update(self.task, description=what, completed=done, total=total or None)
        elif not total:
            self.console.print(what)
        elif done // WORK_EVERY > self.told or done in (1, total):
            self.told = done // WORK_EVERY
            left = (time.monotonic() - self.began) * (total - done) / done
            self.console.print(f"{what}  {done}/{total}, {clock(left)} left")


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
