"""When ranks decide between steps, when a checkpoint is due, and how fast training is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_STEPS = 10
DECIDE_EVERY_S = 2.0


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Note in `seconds` how long the block takes."""
    began = time.monotonic()
    yield
    seconds[what] = time.monotonic() - began


class Clock:
    """When to decide and when to save, and how fast training is."""

    def __init__(self, batch_size: int, checkpoint_s: float) -> None:
        self.batch_size, self.checkpoint_s = batch_size, checkpoint_s
        self.decide_after, self.since_decision = 1, 0
        self.saved()
        self.restart()

    def restart(self) -> None:
        """Begin an epoch's measurement of speed."""
        self.began, self.steps = time.monotonic(), 0
        self.saved()

    def step(self) -> None:
        self.steps, self.since_decision = self.steps + 1, self.since_decision + 1

    def saved(self) -> None:
        self.last_save = time.monotonic()

    def decided(self, step_s: float) -> None:
        """Decide again after about two seconds, ten steps at most: as often on every rank."""
        self.since_decision = 0
        self.decide_after = max(1, min(MOST_STEPS, int(DECIDE_EVERY_S / step_s))) if step_s else MOST_STEPS

    @property
    def decision_due(self) -> bool:
        return self.since_decision >= self.decide_after

    @property
    def checkpoint_due(self) -> bool:
        return bool(self.checkpoint_s) and time.monotonic() - self.last_save >= self.checkpoint_s

    @property
    def steps_s(self) -> float:
        """Seconds since the epoch's measurement began."""
        return time.monotonic() - self.began

    @property
    def step_s(self) -> float:
        return self.steps_s / max(1, self.steps)

    @property
    def images_per_s(self) -> float:
        return self.batch_size / self.step_s
