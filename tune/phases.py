"""One phase of a sweep: Tune runs its trials, or goes on with those that have not ended yet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from privatenet.data_shards.reading.config import DataConfig
from privatenet.distributed.config import Config, TrackingConfig
from privatenet.distributed.errors import Interrupted
from privatenet.tune.cluster import machines, share
from privatenet.tune.settings import SearchConfig, SpaceConfig, SweepConfig
from privatenet.tune.space import Point, suggest
from privatenet.tune.storage import Storage
from privatenet.tune.trial import TrialPlan, point_of
from privatenet.tune.watch import Events, Screen, reason_of

GOALS = {"utility": "max", "leakage": "min", "score": "max"}
STOPPED = "stopped early, as others did better"


@dataclass(frozen=True)
class Phase:
    """Trials of one kind, each `function` with `plan` at one of `points`; None are points that a searcher proposes."""

    name: str
    function: Callable[..., None]
    plan: TrialPlan
    points: list[Point] | None
    stop_early: bool = False


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to. `metrics` are flat, and empty where it failed for the reason `failure`."""

    trial: str
    point: Point
    metrics: dict[str, float]
    checkpoint: tune.Checkpoint | None
    failure: str = ""

    @property
    def finished(self) -> bool:
        return bool(self.metrics)

    @property
    def trade_off(self) -> tuple[float, float]:
        """Utility and leakage on validation data."""
        return self.metrics["validation/utility"], self.metrics["validation/leakage"]


def run_phase(phase: Phase, sweep: SweepConfig, storage: Storage) -> list[TrialResult]:
    """Run the trials of a phase that have not ended yet; returns the results of all.

    Raises `Interrupted` where it was asked to stop before the last one.
    """
    total = len(phase.points) if phase.points else sweep.search.trials
    workers, at_once = share(machines(), sweep.ray, total, sweep.search.concurrent)
    function = tune.with_parameters(phase.function, plan=replace(phase.plan, workers=workers))
    function = tune.with_resources(function, workers.reservation)
    folder = f"{storage.path}/{phase.name}"
    with Screen(phase.name, total, at_once, sweep.quiet) as screen:
        if tune.Tuner.can_restore(folder, storage_filesystem=storage.arrow):
            tuner = tune.Tuner.restore(folder, trainable=function, storage_filesystem=storage.arrow)
            # Trials may have another number of ranks than before; Tune gives no other way to say it.
            tuner._local_tuner._tune_config.reuse_actors = workers.reusable
        else:
            tuner = tune.Tuner(
                function,
                param_space={"point": tune.grid_search(phase.points)} if phase.points else {},
                tune_config=_tune_config(phase, total, at_once, workers.reusable, sweep),
                run_config=_run_config(phase, sweep.search, storage),
            )
        tuner.fit()
        results = [_result(trial) for trial in screen.trials]
        if len(results) < total or any(not result.finished and not result.failure for result in results):
            raise Interrupted(f"the sweep in {sweep.config.output}; the same command with --resume goes on")
        done = sum(result.finished for result in results)
        screen.say(f"{phase.name}: {done} done, {total - done} without a result")
    return results


def _run_config(phase: Phase, search: SearchConfig, storage: Storage) -> tune.RunConfig:
    return tune.RunConfig(
        name=phase.name,
        storage_path=storage.path,
        storage_filesystem=storage.arrow,
        failure_config=tune.FailureConfig(max_failures=search.retries),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        callbacks=[Events()],
        verbose=0,
    )


def _tune_config(phase: Phase, total: int, at_once: int, reuse: bool, sweep: SweepConfig) -> tune.TuneConfig:
    return tune.TuneConfig(
        num_samples=1 if phase.points else total,
        max_concurrent_trials=at_once,
        reuse_actors=reuse,
        search_alg=None if phase.points else _searcher(sweep.search, sweep.space, sweep.config),
        scheduler=_early_stopping(sweep.search, sweep.config) if phase.stop_early else None,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _searcher(search: SearchConfig, space: SpaceConfig, config: Config) -> OptunaSearch:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    public = replace(config, data=DataConfig(), tracking=TrackingConfig())  # Ray pickles the searcher into its storage
    sampler = (
        optuna.samplers.RandomSampler(seed=search.seed)
        if search.algorithm == "random"
        else optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=min(10, max(2, search.trials // 3)))
    )
    goals = ["utility", "leakage"] if search.goal == "front" else [search.goal]
    modes = [GOALS[goal] for goal in goals]
    single = len(goals) == 1
    return OptunaSearch(
        partial(suggest, space, public),
        metric=goals[0] if single else goals,
        mode=modes[0] if single else modes,
        sampler=sampler,
    )


def _early_stopping(search: SearchConfig, config: Config) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="epoch",  # Tune's own count begins anew when a trial is taken up again
        metric=search.goal,
        mode=GOALS[search.goal],
        max_t=config.private.epochs + 1,  # a trial ends itself
        grace_period=search.grace,
        reduction_factor=3,
    )


def _result(trial: Any) -> TrialResult:
    """What one of Tune's trials came to; neither finished nor failed where it is still to go on."""
    report = trial.last_result or {}
    names = [name for name in report if name in GOALS or name.startswith(("validation/", "test/"))]
    metrics = {name: float(report[name]) for name in names}
    error = trial.get_error() if trial.status == "ERROR" else None
    failure = reason_of(error) if error else STOPPED if trial.status == "TERMINATED" else ""
    complete = not error and not {"validation/utility", "test/utility"}.isdisjoint(metrics)
    return TrialResult(
        trial.trial_id,
        point_of(trial.config),
        metrics if complete else {},
        trial.checkpoint,
        "" if complete else failure,
    )


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)
