"""Where training stands, apart from tensors, and decisions about it: pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

from torch import Tensor

from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.distributed.config import FitConfig
from privatenet.models.objectives.queue import Queue
from privatenet.models.tasks import Task

Best = dict[str, tuple[float, int]]
"""By piece of a task, its best figure and the epoch (from 1) that it is from."""


@dataclass(frozen=True)
class TrainState:
    """Where training stands, apart from tensors: JSON. `left_out` are the first and the last of steps whose batches
    are read and not learnt from."""

    step: int = 0
    data: DataState = field(default_factory=DataState)
    best: Best = field(default_factory=dict)
    waited: int = 0
    left_out: tuple[tuple[int, int], ...] = ()

    @property
    def leaves_out(self) -> bool:
        """Whether the next step's batch is left out."""
        return any(first <= self.step + 1 <= last for first, last in self.left_out)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainState":
        best = {name: (float(figure), int(epoch)) for name, (figure, epoch) in values["best"].items()}
        left_out = tuple((first, last) for first, last in values.get("left_out", ()))
        return cls(values["step"], DataState(**values["data"]), best, values["waited"], left_out)


def finished(state: TrainState, fit: FitConfig, plan: TrainingPlan) -> bool:
    """Whether all epochs are trained, or `patience` epochs have passed without a better figure."""
    out_of_patience = bool(fit.patience) and state.waited >= fit.patience
    return state.step >= fit.epochs * plan.steps_per_epoch or out_of_patience


def keep_best(
    state: TrainState, best: dict[str, Tensor], task: Task, figures: Mapping[str, float]
) -> tuple[TrainState, dict[str, Tensor]]:
    """Take over the weights of every piece whose figure is its highest so far; both results are new. NaN never is."""
    better = [
        name
        for name, figure in figures.items()
        if not isnan(figure) and (name not in state.best or figure > state.best[name][0])
    ]
    prefixes = tuple(f"{name}." for name in better)
    weights = copies({key: value for key, value in trained_tensors(task).items() if key.startswith(prefixes)})
    record = {**state.best, **{name: (figures[name], state.data.epoch + 1) for name in better}}
    return replace(state, best=record, waited=0 if better else state.waited + 1), {**best, **weights}


def trained_tensors(task: Task) -> dict[str, Tensor]:
    """Weights and statistics of what the task trains, by their names in the task; what is frozen is left out."""
    prefixes = tuple(f"{name}." for name in task.trained)
    return {name: tensor.detach() for name, tensor in task.state_dict().items() if name.startswith(prefixes)}


def finished_tensors(task: Task) -> dict[str, Tensor]:
    """What is kept of a task that is trained to its end: `trained_tensors` without what a queue still holds."""
    queues = tuple(f"{name}." for name, module in task.named_modules() if isinstance(module, Queue))
    return {name: tensor for name, tensor in trained_tensors(task).items() if not name.startswith(queues)}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, and of their own."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
