"""The learning rate at every step: a pure function."""

import math

from privatenet.distributed.config import FitConfig


def learning_rate(fit: FitConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimisation step `step` (from 0): linear warm-up, then the schedule of `fit`.

    `exponential` falls once an epoch, as the paper's code does; `cosine` falls at every step and reaches zero one step
    after the last (Loshchilov and Hutter, ICLR 2017).
    """
    warmup = fit.warmup_epochs * steps_per_epoch
    if step < warmup:
        return fit.lr * (step + 1) / (warmup + 1)
    if fit.schedule == "exponential":
        return fit.lr * fit.decay ** (step // steps_per_epoch)
    if fit.schedule == "cosine":
        progress = (step - warmup) / (fit.epochs * steps_per_epoch - warmup)
        return fit.lr * (1 + math.cos(math.pi * progress)) / 2
    return fit.lr
