"""A moving average of a task's weights, which is evaluated and kept in their place."""

import copy

import torch
from torch import Tensor, nn

from privatenet.models.tasks import Task


class WeightAverage:
    """An exponential moving average of what changes in a task, in a copy of it, `task`; `steps` were averaged so far.

    torch's AveragedModel does the same, and waits for the device at every step.
    """

    def __init__(self, task: Task, decay: float) -> None:
        self.task, self.decay, self.steps = copy.deepcopy(task), decay, 0

    @torch.no_grad()
    def update(self, task: Task) -> None:
        """Take in the weights and statistics of `task` as they are now."""
        moving: list[tuple[Tensor, Tensor]] = []
        for average, value in zip(_tensors(self.task), _tensors(task), strict=True):
            if self.steps and average.is_floating_point():
                moving.append((average, value))
            else:
                average.copy_(value)
        if moving:
            averages, values = zip(*moving, strict=True)
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        self.steps += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
