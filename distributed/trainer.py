"""Training of any stage.

for each micro-batch, from where the state says:
    augment on the device -> engine step (forward, backward, update) -> steps of adversaries that learn on
    now and then, and at an epoch's end, ranks decide: was one asked to stop, is the loss finite, is a checkpoint due?
    at the end of an epoch: average statistics over ranks -> validate -> keep the best -> record -> checkpoint
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from privatenet.data_shards.files import writing
from privatenet.data_shards.reading.batches import Batch, training_batches
from privatenet.data_shards.reading.plan import DataState, TrainingPlan
from privatenet.data_shards.reading.transforms import augment
from privatenet.distributed import agree, checkpoint, snapshot
from privatenet.distributed.adversaries import AdversaryTrainer
from privatenet.distributed.average import WeightAverage
from privatenet.distributed.clock import Clock, timed
from privatenet.distributed.config import Config, FitConfig
from privatenet.distributed.engine import Engine
from privatenet.distributed.errors import Diverged, Interrupted
from privatenet.distributed.evaluate import Scores, evaluate, score_metrics
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.heartbeat import Heartbeat
from privatenet.distributed.metrics import LossMeans
from privatenet.distributed.mirror import LEFT_OUT, Mirror
from privatenet.distributed.precision import channels_last, layout
from privatenet.distributed.probes import Probes
from privatenet.distributed.progress import EpochProgress
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.schedule import learning_rate
from privatenet.distributed.signals import StopRequest
from privatenet.distributed.statistics import average_statistics, gather_batches, synchronise_statistics
from privatenet.distributed.tracking.tracker import SPEED, Tracker
from privatenet.distributed.train_state import Best, TrainState, finished, keep_best
from privatenet.models.network import Network
from privatenet.models.tasks import Task


@dataclass(frozen=True)
class Job:
    """What one stage gives the trainer.

    `rate` maps validation scores, and what new probes explain by term, to a figure for each separately kept piece of
    the task, by its prefix in the task's state: the higher, the better.
    """

    task: Task
    rate: Callable[[Scores, Mapping[str, float]], dict[str, float]]
    training: Subset
    validation: Subset
    fit: FitConfig


@dataclass(frozen=True)
class EpochEnd:
    """What is known when an epoch (from 1) is over and its checkpoint written: the network as it is, and its scores.

    `seconds` says what the epoch was spent on: steps, evaluation, probes, and the snapshot that is
    written while training goes on.
    """

    epoch: int
    network: Network
    scores: Scores
    last: bool
    seconds: Mapping[str, float]


AfterEpoch = Callable[[EpochEnd], None]


def training_plan(job: Job, config: Config, ranks: Ranks) -> TrainingPlan:
    """What this rank will read; `DataError` where there are too few samples or the batch cannot be cut evenly."""
    rows, data = job.training.rows, config.data
    shards = job.training.split.shard[rows]
    batch_size, accumulation = job.fit.batch_size, config.engine.accumulation
    return TrainingPlan(rows, shards, batch_size, config.seed, ranks.world_size, ranks.rank, accumulation, data.window)


class Trainer:
    """Trains the task of a job on all ranks, which make and call it together; checkpoints are kept in `folder`."""

    def __init__(
        self, job: Job, plan: TrainingPlan, config: Config, faces: Faces, ranks: Ranks, folder: Path,
        tracker: Tracker | None,
    ) -> None:  # fmt: skip
        self.job, self.plan, self.config, self.faces, self.ranks = job, plan, config, faces, ranks
        self.name, self.tracker, self.fit = folder.name, tracker, job.fit
        copy = Mirror(config.mirror, folder).keep if config.mirror else None
        self.store = checkpoint.Store(folder / "checkpoints", config.engine.checkpoints, copy)
        self.left_out = folder / LEFT_OUT
        self.training = _begin(job, config, ranks)

    def run(self, after_epoch: AfterEpoch | None = None) -> Best:
        """Train to the end, or on from the newest checkpoint; the task is left with its best weights.

        All ranks call `after_epoch` together. Raises `Interrupted` after saving where training was asked to stop, and
        `Diverged` where the loss is not finite, whatever is left out; both on all ranks.
        """
        self._resume()
        with StopRequest() as request:
            while not self.finished:
                try:
                    self._train(request, after_epoch)
                except Diverged as error:
                    self._leave_out(error)
        agree.first(self.ranks, self.store.wait)
        return self._take_best()

    def _train(self, request: StopRequest, after_epoch: AfterEpoch | None) -> None:
        self.finite = self.training.state
        clock = Clock(self.fit.batch_size, 60 * self.config.engine.checkpoint_minutes)
        loss = worst = nothing = torch.zeros((), device=self.ranks.device)
        with self._progress() as progress, Heartbeat(self.ranks) as heartbeat:
            for batch, data in self._batches():
                heartbeat.at()
                before, left_out = self.training.state, self.training.state.leaves_out
                if not left_out:
                    loss = loss + self._micro_step(batch) / self.config.engine.accumulation
                heartbeat.at()
                if data.sample % self.fit.batch_size:
                    continue
                self._end_step(data, left_out)
                step_loss, loss = loss, nothing
                worst = torch.maximum(worst, self._without_spike(step_loss))
                clock.step()
                progress.step(self.training.state.step, step_loss, clock.images_per_s)
                epoch_over = data.sample == self.plan.samples_per_epoch
                if not (epoch_over or clock.decision_due):
                    continue
                decision = request.decide(worst, clock.checkpoint_due, clock.step_s)
                clock.decided(decision.step_s)
                worst = nothing
                if not left_out:
                    self.finite = before
                if epoch_over or decision.save or decision.stop:
                    heartbeat.between_steps()
                    request.decide(self.training.engine.size())  # weights that are no numbers are not kept
                if epoch_over:
                    self._end_epoch(progress, clock, after_epoch)
                    clock.restart()
                elif decision.save or decision.stop:
                    self._save()
                    clock.saved()
                if self.finished:
                    break
                if decision.stop:
                    self._stop()

    @property
    def finished(self) -> bool:
        return finished(self.training.state, self.fit, self.plan)

    def _batches(self) -> Iterator[tuple[Batch, DataState]]:
        subset = self.job.training
        return training_batches(subset.split, subset.pictures, self.plan, self.training.state.data, self.config.data)

    def _micro_step(self, batch: Batch) -> Tensor:
        """Forward, backward and, at the last micro-batch of a step, update; returns the loss."""
        config, training = self.config, self.training
        images = augment(batch.images, config.model.image_size, config.augment, config.seed, batch.positions)
        lr = learning_rate(self.fit, training.state.step, self.plan.steps_per_epoch)
        losses = training.engine.step(layout(images, config.engine), batch.labels, lr)
        training.adversaries.observe(batch.labels)
        training.losses.add(losses)
        return losses["loss"]

    def _without_spike(self, loss: Tensor) -> Tensor:
        factor = self.config.engine.spike
        return self.training.losses.without_spike(loss, factor) if factor else loss

    def _end_step(self, data: DataState, left_out: bool) -> None:
        training = self.training
        if not left_out:
            training.losses.add(training.adversaries.step())
            if training.average:
                training.average.update(training.task)
        training.state = replace(training.state, step=training.state.step + 1, data=data)

    def _end_epoch(self, progress: EpochProgress, clock: Clock, after_epoch: AfterEpoch | None) -> None:
        training, epoch = self.training, self.training.state.data.epoch + 1
        images_per_s, seconds = clock.images_per_s, {"steps": clock.steps_s}
        losses = training.losses.means()  # the host waits for the device here
        training.losses = LossMeans()
        for task in (training.task, training.evaluated) if training.average else (training.task,):
            for module in task.trained.values():
                average_statistics(module)
        training.adversaries.end_epoch(epoch)
        probes = Probes(training.evaluated, self.job.validation, self.ranks)
        with timed(seconds, "evaluation"):
            scores = evaluate(training.evaluated, self.job.validation, self.config, self.faces, self.ranks, probes.look)
        with timed(seconds, "probes"):
            explained = probes.explained(self.faces.schema)
        figures = self.job.rate(scores, explained) if len(self.job.validation.rows) else _newest(training.task, epoch)
        training.state, training.best = keep_best(training.state, training.best, training.evaluated, figures)
        progress.epoch(epoch, losses, {head: score.accuracy for head, score in scores.items()}, images_per_s)
        metrics = {f"train/{name}": value for name, value in losses.items()}
        metrics |= {f"validation/{term}/explained": value for term, value in explained.items()}
        metrics |= {**score_metrics("validation", scores), SPEED: images_per_s}
        if self.config.engine.precision == "fp16":
            metrics["loss_scale"] = training.engine.loss_scale()
        agree.first(self.ranks, lambda: self.tracker.log(metrics, epoch) if self.tracker else None)
        every = self.config.engine.keep_every
        with timed(seconds, "snapshot"):
            self._save(epoch if every and epoch % every == 0 else 0)
        if after_epoch:
            agree.first(self.ranks, self.store.wait)
            after_epoch(EpochEnd(epoch, training.evaluated.network, scores, self.finished, seconds))

    def _take_best(self) -> Best:
        training = self.training
        if not training.best:
            raise Diverged("no epoch can be chosen: its validation figures are no finite numbers")
        best = {name: tensor.to(self.ranks.device) for name, tensor in training.best.items()}
        training.task.load_state_dict({**training.task.state_dict(), **best})
        return training.state.best

    def _save(self, epoch: int = 0) -> None:
        """Take everything down as it is now; the first rank writes it while training goes on, for good where it is
        the end of an epoch that is given. All ranks."""
        tensors, state = snapshot.take(self.training, self.ranks)
        agree.first(self.ranks, lambda: self.store.write(self.training.state.step, tensors, state, epoch))

    def _resume(self) -> None:
        """Go on from the newest checkpoint, which the first rank reads for all."""
        content = agree.first(self.ranks, lambda: snapshot.read_newest(self.store))
        if content:
            snapshot.put_back(self.training, *content, self.ranks)

    def _leave_out(self, error: Diverged) -> None:
        """Go back to the newest checkpoint, and on without the batches since the loss was finite. All ranks.

        Raises `error` where there is no checkpoint, or that has been done often enough.
        """
        last, earlier = self.training.state.step, self.training.state.left_out
        agree.first(self.ranks, self.store.wait)
        if len(earlier) >= self.config.engine.patience or not agree.first(self.ranks, self.store.folders):
            raise error
        self._resume()
        good = max(self.finite, self.training.state, key=lambda state: state.step)
        agree.first(self.ranks, lambda: self._list_samples(good, last))
        self.training.state = replace(self.training.state, left_out=(*earlier, (good.step + 1, last)))

    def _list_samples(self, good: TrainState, last: int) -> None:
        """Write down, and say, which samples are left out with the steps after `good`, up to `last`."""
        plan, path, first = replace(self.plan, world_size=1, rank=0, accumulation=1), self.left_out, good.step + 1
        batches = islice(plan.micro_batches(good.data), last - good.step)
        samples = [self.job.training.split.names[row] for batch in batches for row in batch.rows]
        with writing(path), path.open("a") as file:
            file.write(json.dumps({"steps": [first, last], "samples": samples}) + "\n")
        print(
            f"privatenet: the loss is no longer finite in steps {first} to {last}: training goes back to its newest "
            f"checkpoint, and on without their {len(samples)} samples, which are listed in {path}",
            file=sys.stderr,
        )

    def _stop(self) -> None:
        agree.first(self.ranks, self.store.wait)
        step = self.training.state.step
        raise Interrupted(f"{self.name} stopped at step {step}; the same command goes on from there")

    def _progress(self) -> EpochProgress:
        fit = self.fit
        return EpochProgress(self.name, fit.epochs, self.plan.steps_per_epoch, fit.batch_size, self.ranks.first)


def _begin(job: Job, config: Config, ranks: Ranks) -> snapshot.Training:
    """The task ready to be trained on these ranks, at step 0."""
    task = job.task.to(ranks.device)
    if ranks.world_size > 1:
        gather_batches(task)
        for module in task.trained.values() if config.engine.sync_statistics else ():
            synchronise_statistics(module)
    # Copied before the engine hangs its own state on the parameters.
    decay = job.fit.ema
    average = WeightAverage(task, decay) if decay else None
    engine, adversaries = Engine(task, job.fit, config.engine, ranks), AdversaryTrainer(task, config.seed, ranks)
    if average and config.engine.channels_last:
        channels_last(average.task)
    torch.manual_seed(config.seed + ranks.rank)  # of networks that draw, such as those with stochastic depth
    return snapshot.Training(task, engine, adversaries, average, TrainState(), {}, LossMeans())


def _newest(task: Task, epoch: int) -> dict[str, float]:
    """Without validation the latest weights count as the best."""
    return dict.fromkeys(task.trained, float(epoch))
