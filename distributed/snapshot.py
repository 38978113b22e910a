"""All that training needs to go on exactly, bit for bit on as many ranks: taken down at any step, and put back.

On another number of ranks it goes on at the same sample with the mean of the ranks' statistics.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from privatenet.distributed import agree
from privatenet.distributed.adversaries import AdversaryTrainer
from privatenet.distributed.average import WeightAverage
from privatenet.distributed.checkpoint import Checkpoint, Store, below, load_training
from privatenet.distributed.engine import Engine
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.metrics import LossMeans
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.train_state import TrainState, copies, trained_tensors
from privatenet.models.tasks import Task

Tensors = dict[str, Tensor]


@dataclass
class Training:
    """What changes while a task is trained. `average` is the moving average of its weights, where there is one."""

    task: Task
    engine: Engine
    adversaries: AdversaryTrainer
    average: WeightAverage | None
    state: TrainState
    best: Tensors
    losses: LossMeans

    @property
    def evaluated(self) -> Task:
        """The task with the weights that are evaluated and kept."""
        return self.average.task if self.average else self.task


def take(training: Training, ranks: Ranks) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Files of tensors and JSON that hold `training` as it is now; copies. All ranks call it together."""
    optimizer, optimizer_step = training.engine.optimizer_state()
    shares = agree.everyone(ranks, lambda: _share(training, ranks))
    tensors = {
        "model": copies(trained_tensors(training.task)),
        "optimizer": optimizer,
        "adversaries": training.adversaries.state(),
        "best": training.best,
        "ranks": {f"{rank}/{name}": value for rank, share in enumerate(shares) for name, value in share.items()},
    }
    state = {**asdict(training.state), "optimizer_step": optimizer_step, "scaler": training.engine.scaler_state()}
    if training.average:
        tensors["average"] = copies(trained_tensors(training.evaluated))
        state["averaged"] = training.average.steps
    return tensors, state


def put_back(training: Training, tensors: Mapping[str, Tensors], state: Mapping[str, Any], ranks: Ranks) -> None:
    """Let `training` go on from what `take` returned. All ranks call it together."""
    shares = _by_rank(tensors["ranks"])
    alike = len(shares) == ranks.world_size
    share = shares[ranks.rank] if alike else _mean(shares)
    _load(training.task, {**tensors["model"], **below(share, "task/")})
    if training.average:
        _load(training.evaluated, {**tensors["average"], **below(share, "average/")})
        training.average.steps = state["averaged"]
    training.engine.load_optimizer_state(tensors["optimizer"], state["optimizer_step"])
    training.engine.load_scaler_state(state["scaler"])
    training.adversaries.load_state(tensors["adversaries"])
    training.state, training.best = TrainState.from_dict(state), tensors["best"]
    training.losses.sums = {name: value.to(ranks.device) for name, value in below(share, "losses/").items()}
    if alike:
        torch.set_rng_state(share["rng"])
        if "rng_cuda" in share:
            torch.cuda.set_rng_state(share["rng_cuda"], ranks.device)


def read_newest(store: Store) -> tuple[dict[str, Tensors], dict[str, Any]] | None:
    """What `take` returned, from the newest checkpoint that can be read, with a line about those that cannot; None
    where there is none at all. Raises `ConfigError` where all are damaged."""
    folders = store.folders()
    while folders:
        try:
            return _read(load_training(folder := folders.pop()))
        except (ConfigError, OSError) as error:
            if not folders:
                raise
            print(f"privatenet: {error}; goes on from the one before", file=sys.stderr)
            shutil.rmtree(folder)  # it would be in the way of one of the same step
    return None


def _read(checkpoint: Checkpoint) -> tuple[dict[str, Tensors], dict[str, Any]]:
    names = [name.removesuffix(".safetensors") for name in checkpoint.state["files"]]
    return {name: checkpoint.tensors(name) for name in names}, checkpoint.state


def _share(training: Training, ranks: Ranks) -> Tensors:
    """What differs between ranks."""
    share = {"rng": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        share["rng_cuda"] = torch.cuda.get_rng_state(ranks.device)
    share |= {f"task/{name}": value for name, value in _statistics(training.task).items()}
    if training.average:
        share |= {f"average/{name}": value for name, value in _statistics(training.evaluated).items()}
    return copies(share | {f"losses/{name}": value for name, value in training.losses.sums.items()})


def _load(task: Task, tensors: Mapping[str, Tensor]) -> None:
    task.load_state_dict({**task.state_dict(), **tensors})


def _statistics(task: Task) -> dict[str, Tensor]:
    """Running statistics of what the task trains: until they are averaged, each rank has its own."""
    buffers = {name for name, buffer in task.named_buffers() if buffer.is_floating_point()}
    return {name: tensor for name, tensor in trained_tensors(task).items() if name in buffers}


def _by_rank(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The ranks' own tensors from "<rank>/<name>"."""
    size = 1 + max(int(name.partition("/")[0]) for name in tensors)
    return [below(tensors, f"{rank}/") for rank in range(size)]


def _mean(shares: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Statistics and losses for ranks of another number: the means of those that were."""
    names = [name for name in shares[0] if not name.startswith("rng")]
    return {name: torch.stack([share[name] for share in shares]).mean(dim=0) for name in names}
