"""The training loop of every stage.

for each micro-batch, from where the state says:
    augment on the device -> engine step (forward, backward, update)
    every few steps: was anyone asked to stop, is the loss finite?
    at the end of an epoch: average statistics over ranks -> validate -> keep the best -> record -> checkpoint
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from privatenet.data_shards.reading.batches import training_batches
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.reading.transforms import augment, prepare
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config, EngineConfig, FitConfig
from privatenet.distributed.engine import Engine, evaluation_precision
from privatenet.distributed.faces import Faces, Part
from privatenet.distributed.metrics import LossMeans, Score, Tally
from privatenet.distributed.progress import EpochProgress
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.schedule import learning_rate
from privatenet.distributed.signals import Interrupted, StopRequest
from privatenet.distributed.statistics import average_statistics, synchronise_statistics
from privatenet.distributed.tracking.tracker import Tracker
from privatenet.models.network import Network
from privatenet.models.tasks import Task

CHECK_EVERY = 10
EVALUATION_BATCH = 128

Scores = Mapping[str, Score]


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch (from 1) is over and its checkpoint written: the network as it is, and its scores."""

    epoch: int
    network: Network
    scores: Scores
    last: bool


AfterEpoch = Callable[[EpochEnd], None]


@dataclass(frozen=True)
class Job:
    """What one stage gives the loop.

    `heads` maps the names of the task's predictions to attributes. `figures` maps validation scores and losses to a
    figure for each separately kept piece of the task, by its prefix in the task's state: the higher, the better.
    """

    task: Task
    heads: Mapping[str, str]
    figures: Callable[[Scores, Mapping[str, float]], dict[str, float]]
    training: Part
    validation: Part
    fit: FitConfig


@dataclass(frozen=True)
class TrainState:
    """Where training stands, apart from tensors: JSON."""

    step: int = 0
    data: DataState = field(default_factory=DataState)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    waited: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainState":
        best = {name: (float(figure), int(epoch)) for name, (figure, epoch) in values["best"].items()}
        return cls(values["step"], DataState(**values["data"]), best, values["waited"])


def training_plan(job: Job, config: Config, ranks: Ranks) -> TrainingPlan:
    """What this rank will read; `DataError` where there are too few samples or the batch cannot be cut evenly."""
    rows, data = job.training.rows, config.data
    shards = job.training.split.shard[rows]
    batch_size, accumulation = job.fit.batch_size, config.engine.accumulation
    return TrainingPlan(rows, shards, batch_size, config.seed, ranks.world_size, ranks.rank, accumulation, data.window)


def fit(
    job: Job, plan: TrainingPlan, config: Config, faces: Faces, ranks: Ranks, folder: Path, tracker: Tracker | None,
    after_epoch: AfterEpoch | None = None,
) -> dict[str, tuple[float, int]]:  # fmt: skip
    """Train `job.task` to the end, or on from the newest checkpoint in `folder`; it is left with its best weights.

    All ranks call `after_epoch` together.

    Returns each piece's best figure and the epoch it is from. Raises `Interrupted` after saving where training was
    asked to stop, and `Diverged` where the loss is not finite; both on all ranks.
    """
    settings, task = job.fit, job.task.to(ranks.device)
    if config.engine.sync_statistics and ranks.world_size > 1:
        for module in task.trained.values():  # what is frozen has no batch statistics to share
            synchronise_statistics(module)
    # Copied before the engine hangs its own state on the parameters.
    average = (
        AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True) if settings.ema else None
    )
    judged = cast(Task, average.module) if average else task
    engine = Engine(task, settings, config.engine, ranks)
    state, best = _resume(folder, task, judged, engine)
    shown = EpochProgress(folder.name, settings.epochs, plan.steps_per_epoch, settings.batch_size, ranks.first)

    with StopRequest() as request, shown as progress:
        means, began, steps = LossMeans(), time.monotonic(), 0
        batches = training_batches(job.training.split, job.training.pictures, plan, state.data, config.data)
        for batch, data in batches if not finished(state, settings, plan) else ():
            images = augment(batch.images, config.model.image_size, config.augment, config.seed, batch.positions)
            losses = engine.step(
                layout(images, config.engine), batch.labels, learning_rate(settings, state.step, plan.steps_per_epoch)
            )
            means.add(losses)
            if data.sample % settings.batch_size:
                continue
            state, steps = replace(state, step=state.step + 1, data=data), steps + 1
            if average:
                average.update_parameters(task)
            speed = steps * settings.batch_size / (time.monotonic() - began)
            progress.step(state.step, losses["loss"], speed)
            if data.sample < plan.samples_per_epoch:
                if state.step % CHECK_EVERY == 0 and request.check(losses["loss"]):
                    _save(folder, state, task, judged, best, engine, ranks)
                    raise Interrupted(
                        f"{folder.name} stopped at step {state.step}; the same command goes on from there"
                    )
                continue

            asked = request.check(losses["loss"])
            trained = means.means()  # the host waits for the device here
            for module in {id(m): m for m in (task, judged)}.values():
                _average_trained(module)
            scores, validated = evaluate(judged, job.heads, job.validation, config, faces, ranks, losses=True)
            chosen_by = job.figures(scores, validated) if len(job.validation.rows) else _newest(task, data.epoch)
            state, best = keep_best(state, best, judged, chosen_by)
            _record(progress, tracker, data.epoch + 1, trained, scores, speed)
            _save(folder, state, task, judged, best, engine, ranks)
            last = finished(state, settings, plan)
            if after_epoch:
                after_epoch(EpochEnd(data.epoch + 1, judged.network, scores, last))
            if last:
                break
            if asked:
                raise Interrupted(
                    f"{folder.name} stopped after epoch {data.epoch + 1}; the same command goes on from there"
                )
            means, began, steps = LossMeans(), time.monotonic(), 0
    task.load_state_dict({**task.state_dict(), **{name: tensor.to(ranks.device) for name, tensor in best.items()}})
    return state.best


def evaluate(
    task: Task,
    heads: Mapping[str, str],
    part: Part,
    config: Config,
    faces: Faces,
    ranks: Ranks,
    losses: bool = False,
) -> tuple[dict[str, Score], dict[str, float]]:
    """Score the task's predictions over `part`, exactly, over all ranks; with `losses` also their means over samples.

    In evaluation mode, one picture's answer independent of the others (unless the affinity is "batch").
    """
    schema = faces.schema
    tally = Tally({head: len(schema.attribute(name).classes) for head, name in heads.items()}, ranks.device)
    sums: dict[str, Tensor] = {}
    count = torch.zeros((), device=ranks.device)
    task.eval()
    with evaluation_precision(config.engine, ranks.device):
        for batch in faces.batches(part, EVALUATION_BATCH):
            images = layout(prepare(batch.images, config.model.image_size), config.engine)
            for head, logits in task.predict(images).items():
                tally.add(head, logits, batch.labels[heads[head]])
            if losses:
                for name, loss in task(images, batch.labels).items():
                    sums[name] = sums.get(name, torch.zeros_like(count)) + loss.float() * len(images)
                count += len(images)
    task.train()
    return tally.scores(), _mean_losses(sums, count) if losses and len(part.rows) else {}


def _mean_losses(sums: Mapping[str, Tensor], count: Tensor) -> dict[str, float]:
    names: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(names, sorted(sums))
    keys = max(names, key=len)  # a rank without samples has none
    flat = torch.stack([*(sums.get(name, torch.zeros_like(count)) for name in keys), count])
    dist.all_reduce(flat)
    *totals, samples = flat.tolist()
    return {name: total / samples for name, total in zip(keys, totals, strict=True)}


def layout(images: Tensor, config: EngineConfig) -> Tensor:
    """Pictures in the memory layout that the engine's networks are fastest with."""
    return images.contiguous(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)


def finished(state: TrainState, settings: FitConfig, plan: TrainingPlan) -> bool:
    """Whether all epochs are trained, or `patience` epochs have passed without a better figure."""
    out_of_patience = bool(settings.patience) and state.waited >= settings.patience
    return state.step >= settings.epochs * plan.steps_per_epoch or out_of_patience


def _newest(task: Task, epoch: int) -> dict[str, float]:
    """Without validation the latest weights count as the best."""
    return dict.fromkeys(task.trained, float(epoch))


def _average_trained(task: Task) -> None:
    for module in task.trained.values():
        average_statistics(module)


def keep_best(
    state: TrainState, best: dict[str, Tensor], task: Task, figures: Mapping[str, float]
) -> tuple[TrainState, dict[str, Tensor]]:
    """Take over the weights of every piece whose figure is its highest so far; both results are new."""
    better = [name for name, figure in figures.items() if name not in state.best or figure > state.best[name][0]]
    prefixes = tuple(f"{name}." for name in better)
    kept = {key: value.cpu().clone() for key, value in trained_tensors(task).items() if key.startswith(prefixes)}
    record = {**state.best, **{name: (figures[name], state.data.epoch + 1) for name in better}}
    return replace(state, best=record, waited=0 if better else state.waited + 1), {**best, **kept}


def trained_tensors(task: Task) -> dict[str, Tensor]:
    """Weights and statistics of what the task trains, by their names in the task; what is frozen is left out."""
    prefixes = tuple(f"{name}." for name in task.trained)
    return {name: tensor.detach() for name, tensor in task.state_dict().items() if name.startswith(prefixes)}


def _record(
    progress: EpochProgress,
    tracker: Tracker | None,
    epoch: int,
    trained: Mapping[str, float],
    scores: Scores,
    speed: float,
) -> None:
    progress.epoch(epoch, trained, {head: result.accuracy for head, result in scores.items()}, speed)
    if tracker:
        metrics = {f"train/{name}": value for name, value in trained.items()}
        tracker.log({**metrics, **score_metrics("validation", scores), "images_per_s": speed}, epoch)


def score_metrics(split: str, scores: Scores) -> dict[str, float]:
    """Scores as flat metrics: "test/backbone-gender/accuracy"."""
    return {
        f"{split}/{head}/{name}": value for head, result in scores.items() for name, value in asdict(result).items()
    }


def _save(
    folder: Path,
    state: TrainState,
    task: Task,
    judged: Task,
    best: dict[str, Tensor],
    engine: Engine,
    ranks: Ranks,
) -> None:
    _average_trained(task)
    optimizer, optimizer_step = engine.optimizer_state()
    if ranks.first:
        root = folder / "checkpoints"
        target = checkpoint.step_folder(root, state.step)
        if not target.exists():
            tensors = {"model": trained_tensors(task), "optimizer": optimizer, "best": best}
            if judged is not task:
                tensors["average"] = trained_tensors(judged)
            checkpoint.save(target, tensors, {**asdict(state), "optimizer_step": optimizer_step})
        checkpoint.keep_only(root, target)
    dist.barrier()


def _resume(folder: Path, task: Task, judged: Task, engine: Engine) -> tuple[TrainState, dict[str, Tensor]]:
    dist.barrier()
    found: Checkpoint | None = checkpoint.newest(folder / "checkpoints")
    if found is None:
        return TrainState(), {}
    task.load_state_dict({**task.state_dict(), **found.tensors()})
    if judged is not task:
        judged.load_state_dict({**judged.state_dict(), **found.tensors("average")})
    engine.load_optimizer_state(found.tensors("optimizer"), found.state["optimizer_step"])
    return TrainState.from_dict(found.state), found.tensors("best")
