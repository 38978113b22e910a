"""What a person sees of a sweep: a live table on a terminal, one line for whatever happens elsewhere."""

import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ray import tune
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from privatenet.audit.report.text import DASH, percent, points
from privatenet.distributed.progress import clock
from privatenet.tune.space import describe
from privatenet.tune.trial import point_of

MOST_ROWS = 14


@dataclass(frozen=True)
class Row:
    """One trial as a row of the table; utility and leakage are shares, NaN before they are known."""

    name: str
    status: str
    epoch: int = 0
    utility: float = math.nan
    leakage: float = math.nan
    seconds: float = 0.0


def row_of(trial: Any, result: Mapping[str, Any] | None = None) -> Row:
    """One of Tune's trials, by its newest result."""
    words = {"TERMINATED": "done", "ERROR": "failed", "RUNNING": "running", "PENDING": "waits", "PAUSED": "waits"}
    metrics = result or trial.last_result or {}
    return Row(
        describe(point_of(trial.config)),
        words.get(trial.status, trial.status.lower()),
        int(metrics.get("epoch", 0)),
        float(metrics.get("test/utility", metrics.get("utility", math.nan))),
        float(metrics.get("test/leakage", metrics.get("leakage", math.nan))),
        float(metrics.get("seconds", 0.0)),
    )


def seconds_left(rows: Sequence[Row], total: int, concurrent: int) -> float:
    """What is left at the pace of the trials that are done; NaN before one is."""
    done = [row.seconds for row in rows if row.status == "done"]
    if not done:
        return math.nan
    mean = sum(done) / len(done)
    running = sum(min(row.seconds, mean) for row in rows if row.status == "running")
    ended = sum(row.status in ("done", "failed") for row in rows)
    return max(0.0, (total - ended) * mean - running) / max(1, concurrent)


def table(title: str, rows: Sequence[Row], total: int, left: float) -> Table:
    """At most 80 columns: what runs, then the newest of what has ended; the caption counts all."""
    count = {word: sum(row.status == word for row in rows) for word in ("done", "running", "failed")}
    view = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    view.add_column("trial", no_wrap=True, overflow="ellipsis", width=36)
    for heading, justify in (("status", "left"), ("epoch", "right"), ("utility, %", "right"), ("leakage", "right")):
        view.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    ended = [row for row in rows if row.status in ("done", "failed")]
    for row in [*(row for row in rows if row.status == "running"), *ended[::-1]][:MOST_ROWS]:
        style = {"failed": "red", "running": "bold"}.get(row.status, "")
        cells = (row.name, row.status, str(row.epoch or DASH), percent(row.utility), points(row.leakage))
        view.add_row(*(Text(cell) for cell in cells), style=style)
    time_left = f"; {clock(left)} left" if math.isfinite(left) and left > 0 else ""
    failed = f", {count['failed']} failed" if count["failed"] else ""
    view.caption = f"{count['done']} of {total} done, {count['running']} running{failed}{time_left}"
    view.caption_justify = "left"
    return view


def reason_of(error: BaseException) -> str:
    """The last line of an error that says something, without the module of the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^(?:\w+\.)+(?=\w+: )", "", lines[-1]) if lines else type(error).__name__


@dataclass
class Screen:
    """The display of one phase; Tune's events go to the `current` one. `trials` are Tune's, once it has ended."""

    title: str
    total: int
    concurrent: int
    quiet: bool = False
    began: float = field(default_factory=time.monotonic)
    trials: list[Any] = field(default_factory=list)
    current: ClassVar["Screen | None"] = None

    def __enter__(self) -> "Screen":
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = None
        if sys.stdout.isatty() and not self.quiet:
            self.live = Live(console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        self.say(f"{self.title}: {self.total} to do, {self.concurrent} at a time")
        Screen.current = self
        return self

    def __exit__(self, *_: object) -> None:
        Screen.current = None
        if self.live:
            self.live.stop()

    def show(self, trials: Sequence[Any]) -> None:
        if self.live:
            rows = [row_of(trial) for trial in trials]
            self.live.update(table(self.title, rows, self.total, seconds_left(rows, self.total, self.concurrent)))

    def say(self, line: str) -> None:
        """Print a line of a log; on a terminal the table has it."""
        if not self.live:
            self.console.print(line)

    def event(self, what: str, row: Row, trial: str, trials: Sequence[Any]) -> None:
        metrics = "" if math.isnan(row.utility) else f", utility {percent(row.utility)} %"
        metrics += "" if math.isnan(row.leakage) else f", leakage {points(row.leakage)} points"
        ended = sum(other.status in ("TERMINATED", "ERROR") for other in trials)
        at = clock(time.monotonic() - self.began)
        self.say(f"{at:>7s}  {ended}/{self.total}  {trial} {row.name}: {what}{metrics}")


class Events(tune.Callback):  # type: ignore[misc]
    """Tune's callbacks: events go on to the screen. Pickled with the sweep's state, so it holds nothing itself."""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if Screen.current:
            Screen.current.show(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if Screen.current:
            Screen.current.trials = trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._event("starts", trial, trials)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("epoch"):
            self._event(f"epoch {result['epoch']}", trial, trials, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._event("done", trial, trials)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._event("failed, is taken up again", trial, trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        self._event(f"failed, {reason_of(error) if error else 'for no known reason'}", trial, trials)

    def _event(self, what: str, trial: Any, trials: list[Any], result: dict[str, Any] | None = None) -> None:
        if Screen.current:
            Screen.current.event(what, row_of(trial, result), trial.trial_id, trials)
