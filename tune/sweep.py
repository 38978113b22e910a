"""A sweep, from settings to a front: what is shared once, then the trials, then an audit of those that nothing beats.

output/sweep.yaml            the settings; `--resume` goes on only with the same ones
output/ray/{shared,trials,audits}/   what Tune keeps of each phase, by trial its newest checkpoint (or in `ray.storage`)
output/front/<trial>/        chosen networks with their reports
output/compare/              the front as table, page and picture
"""

import os
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pyarrow.fs
import ray
import yaml
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.pareto import front
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config, ConfigError, TrackingConfig
from privatenet.distributed.provenance import differences
from privatenet.distributed.ranks import num_cores
from privatenet.distributed.signals import Interrupted
from privatenet.distributed.tracking import outbox
from privatenet.distributed.tracking.sender import deliver
from privatenet.distributed.tracking.tracker import conclude, log_files, parent_run
from privatenet.tune.compare.candidates import Candidate, Measures
from privatenet.tune.group import Workers
from privatenet.tune.settings import RayConfig, SearchConfig, SpaceConfig
from privatenet.tune.space import Point, backbones, corners, describe, protected, suggest, watched
from privatenet.tune.storage import Storage
from privatenet.tune.trial import UNPROTECTED, Plan, audit_chosen, point_of, train_private, train_shared
from privatenet.tune.watch import Events, Screen, reason_of

GOALS = {"utility": "max", "leakage": "min", "score": "max"}
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # our own screen instead
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own records instead
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # leakage is not measured after every epoch
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
STOPPED = "stopped early, as others did better"
IDLE_MUST_NOT_SPIN = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Ended:
    """What a trial came to. `figures` are its flat metrics, empty where it failed for `reason`."""

    trial: str
    point: Point
    figures: dict[str, float]
    checkpoint: tune.Checkpoint | None
    reason: str = ""

    @property
    def finished(self) -> bool:
        return "validation/utility" in self.figures or "test/utility" in self.figures

    @property
    def trade_off(self) -> tuple[float, float]:
        return self.figures["validation/utility"], self.figures["validation/leakage"]


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep, all judged."""

    config: Config
    space: SpaceConfig
    search: SearchConfig
    where: RayConfig
    quiet: bool = False


def prepare(wanted: Sweep, resume: bool) -> None:
    """Write the sweep's settings down, or see that they are those of the one that is resumed. Raises `ConfigError`."""
    for name in wanted.search.attackers or [""]:
        if name not in ATTACKERS:
            raise ConfigError(f"search.attackers: {name!r} is not accepted: they are {', '.join(ATTACKERS)}")
    if wanted.where.storage.has_credentials:
        raise ConfigError(
            f"ray.storage: {wanted.where.storage}: Ray would write its name, password or token down: give them in the "
            "environment of every machine, as its client takes them (AWS_ACCESS_KEY_ID, FSSPEC_<SCHEME>_PASSWORD, ...)"
        )
    path = Path(wanted.config.output) / "sweep.yaml"
    now = _identity(wanted)
    if not path.exists():
        if resume:
            raise ConfigError(f"--resume: {path.parent} holds no sweep; leave --resume out to begin one there")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(now, sort_keys=False))
        return
    if not resume:
        raise ConfigError(f"{path.parent} holds a sweep: --resume goes on with it, or choose another --output")
    changed = differences(yaml.safe_load(path.read_text()), now)
    if changed:
        raise ConfigError(f"--resume: {path.parent} holds another sweep ({changed}): choose another --output")


def sweep(wanted: Sweep) -> list[Candidate]:
    """Do what is not done yet, and return the network of every trial, the unprotected ones first.

    Raises `ConfigError` where even the unprotected network cannot be trained, and `Interrupted` where it was asked to
    stop.
    """
    output = Path(wanted.config.output).resolve()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # which Tune ends in order at
    with _cluster(wanted.where), parent_run(wanted.config.tracking, output, "sweep") as tracking:
        config = replace(wanted.config, output=str(output), tracking=tracking)
        taps, attributes = watched(wanted.space, wanted.search, config)
        look = AuditConfig(taps, attributes, list(wanted.search.attackers), seeds=1, components=256, references=[])
        whole = replace(look, attackers=list(ATTACKERS), seeds=3, components=512)
        audit = whole if wanted.search.audit == "full" else look
        pairs = tuple(protected(wanted.space, config))
        plan = Plan(config, look, audit, wanted.search.measure_every, pairs, Workers(1, 1, 0))

        bases = [{"backbone": name} for name in backbones(wanted.space, config)]
        shared = _phase("shared", train_shared, bases, plan, wanted)
        for ended in shared:
            if not ended.finished:
                raise ConfigError(f"the unprotected network could not be trained: {ended.reason}")
        plan = replace(plan, shared={e.point["backbone"]: e.checkpoint for e in shared if e.checkpoint})

        trials = _phase("trials", train_private, None, plan, wanted)
        finished = [ended for ended in trials if ended.finished]
        best = choose(finished, wanted.search.goal)
        audited: dict[str, Ended] = {}
        if wanted.search.audit != "none" and best:
            named = {_base_name(e, config): e.checkpoint for e in shared} | {e.trial: e.checkpoint for e in best}
            plan = replace(plan, chosen={name: found for name, found in named.items() if found})
            todo = [{"trial": name} for name in plan.chosen]
            audited = {ended.point["trial"]: ended for ended in _phase("audits", audit_chosen, todo, plan, wanted)}
        candidates = [candidate("target", _base_name(e, config), e, audited, output, config) for e in shared]
        candidates += [candidate("private", ended.trial, ended, audited, output, config) for ended in trials]
        _deliver(output, tracking.uri)
        for network in candidates:
            _conclude(network, tracking, output / "ended")
        log_files(tracking, [output / "sweep.yaml"])
    return candidates


def choose(finished: Sequence[Ended], goal: str) -> list[Ended]:
    """The trials that are worth an audit: the front or, with a single goal, the best."""
    if goal == "front":
        return [e for e, good in zip(finished, front([e.trade_off for e in finished]), strict=True) if good]
    sign = 1 if GOALS[goal] == "max" else -1
    return sorted(finished, key=lambda e: sign * e.figures[goal], reverse=True)[:1]


def share(machines: Sequence[Mapping[str, float]], where: RayConfig, wanted: int, limit: int) -> tuple[Workers, int]:
    """The ranks of each of `wanted` trials, and how many trials run at a time: no more than `limit`, if that is not 0.

    `machines` are Ray's resources of each; a trial is on one of them. Unless `where` says otherwise, a rank has one
    GPU, and a machine's cores are shared out among its trials, so that their threads do not fight. Raises `ConfigError`
    where not even one trial fits.
    """
    most = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
    gpus, ranks = where.gpus if where.gpus >= 0 else min(1.0, most), where.workers
    room = []
    for machine in machines:
        cores, cards = int(machine.get("CPU", 0)), machine.get("GPU", 0.0)
        fit = cores // (max(1, where.cpus) * ranks)
        room.append((cores, min(fit, int(cards / (gpus * ranks))) if gpus else fit))
    places = sum(fit for _, fit in room)
    if not places:
        shown = ", ".join(f"{m.get('CPU', 0):g} cores and {m.get('GPU', 0):g} GPUs" for m in machines)
        raise ConfigError(
            f"ray.workers {ranks} of {max(1, where.cpus)} cores and {gpus:g} GPUs each fit on no machine of {shown}"
        )
    at_once = min(wanted, limit or wanted, places)
    cpus = where.cpus or min(cores // (min(fit, at_once) * ranks) for cores, fit in room if fit)
    return Workers(ranks, cpus, gpus), at_once


def _phase(
    name: str, function: Callable[..., None], points: list[Point] | None, plan: Plan, wanted: Sweep
) -> list[Ended]:
    """Run the trials of one phase that have not ended yet: those of `points`, or else those that are searched for."""
    search, config = wanted.search, wanted.config
    if points is None and search.algorithm == "grid":
        points = list(corners(wanted.space, config))
    total = len(points) if points else search.trials
    workers, at_once = share(_machines(), wanted.where, total, search.concurrent)
    function = tune.with_parameters(function, plan=replace(plan, workers=workers))
    function = tune.with_resources(function, workers.reservation)
    filesystem, root = _storage(wanted)
    with Screen(name, total, at_once, wanted.quiet) as screen:
        if tune.Tuner.can_restore(f"{root}/{name}", storage_filesystem=filesystem):
            tuner = tune.Tuner.restore(f"{root}/{name}", trainable=function, storage_filesystem=filesystem)
        else:
            kept = tune.RunConfig(
                name=name,
                storage_path=root,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=search.retries),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                callbacks=[Events()],
                verbose=0,
            )
            space = {"point": tune.grid_search(points)} if points else {}
            how = _search(name, bool(points), total, at_once, wanted)
            tuner = tune.Tuner(function, param_space=space, tune_config=how, run_config=kept)
        tuner.fit()
        ended = [_ended(trial) for trial in screen.trials]
        if len(ended) < total or any(not e.finished and not e.reason for e in ended):
            raise Interrupted(f"the sweep in {config.output}; the same command with --resume goes on")
        done = sum(e.finished for e in ended)
        screen.say(f"{name}: {done} done, {len(ended) - done} without a result")
    return ended


def _search(name: str, listed: bool, total: int, at_once: int, wanted: Sweep) -> tune.TuneConfig:
    """How Tune comes by the trials of a phase: they are listed, or a searcher proposes `total` of them."""
    early = name == "trials" and wanted.search.stop_early
    return tune.TuneConfig(
        num_samples=1 if listed else total,
        max_concurrent_trials=at_once,
        search_alg=None if listed else _searcher(wanted.search, wanted.space, wanted.config),
        scheduler=_early_stopping(wanted.search, wanted.config) if early else None,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _searcher(search: SearchConfig, space: SpaceConfig, config: Config) -> OptunaSearch:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = (
        optuna.samplers.RandomSampler(seed=search.seed)
        if search.algorithm == "random"
        else optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=min(10, max(2, search.trials // 3)))
    )
    goals = ["utility", "leakage"] if search.goal == "front" else [search.goal]
    modes = [GOALS[goal] for goal in goals]
    single = len(goals) == 1
    public = replace(config, data=DataConfig(), tracking=TrackingConfig())  # Ray pickles the searcher into its storage
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


def _ended(trial: Any) -> Ended:
    """What one of Tune's trials came to; neither finished nor with a reason where it is still to go on."""
    told = trial.last_result or {}
    figures = {name: float(told[name]) for name in told if name in GOALS or name.startswith(("validation/", "test/"))}
    error = trial.get_error() if trial.status == "ERROR" else None
    reason = reason_of(error) if error else STOPPED if trial.status == "TERMINATED" else ""
    whole = not error and not {"validation/utility", "test/utility"}.isdisjoint(figures)
    point = point_of(trial.config)
    return Ended(trial.trial_id, point, figures if whole else {}, trial.checkpoint, "" if whole else reason)


def candidate(
    stage: str, trial: str, ended: Ended, audited: Mapping[str, Ended], output: Path, config: Config
) -> Candidate:
    """The network of a trial, to be compared; an audited one is brought to the output's folder."""
    tested = audited.get(trial)
    place = f"{ended.checkpoint.path}/{stage}/final" if ended.checkpoint and ended.finished else ""
    if tested and tested.checkpoint:
        own = output / "front" / trial
        shutil.rmtree(own, ignore_errors=True)
        tested.checkpoint.to_directory(str(own))
        place = f"{own}/{stage}/final"
    unfinished = "KILLED" if ended.reason == STOPPED else "FAILED"
    private = stage == "private"
    return Candidate(
        run_id=trial,
        name=describe(ended.point) if private else trial,
        status="FINISHED" if ended.finished else unfinished,
        group=ended.point.get("objective", config.protect.specs[0].objective) if private else UNPROTECTED,
        settings=ended.point if private else {},
        validation=Measures.of(ended.figures, "validation"),
        test=Measures.of(tested.figures if tested else {}, "test"),
        checkpoint=place,
        reason=ended.reason,
    )


def _deliver(output: Path, uri: Uri) -> None:
    """Send what trials could not tell MLflow while it was away; where it still is, the sweep's own run says so."""
    with suppress(ConfigError):
        for folder in outbox.find([output]):
            deliver(folder, _silent, uri)


def _silent(line: str) -> None:
    pass


def _conclude(network: Candidate, tracking: TrackingConfig, folder: Path) -> None:
    """Tell its MLflow run what only the sweep knows: where its checkpoint is, or why it has none."""
    trial, stage = network.run_id, "private" if network.private else "target"
    status = network.status if network.status != "FINISHED" else ""
    failure = {"failure": network.reason} if network.reason else {}
    tags = {"stage": stage, "trial": trial, "checkpoint": network.checkpoint, **failure}
    conclude(
        replace(tracking, trial=trial),
        folder / trial,
        stage,
        _named(network.settings),
        {**tags, "mlflow.runName": network.name},
        status,
        _silent,
    )


def _base_name(ended: Ended, config: Config) -> str:
    """What the unprotected network of a backbone is called among the trials."""
    backbone = ended.point["backbone"]
    return UNPROTECTED if backbone == config.model.backbone else f"{UNPROTECTED}-{backbone}"


def _named(point: Mapping[str, Any]) -> dict[str, str]:
    return {f"space.{name}": str(value) for name, value in point.items()}


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _identity(wanted: Sweep) -> dict[str, Any]:
    """What makes a sweep this one: not where it runs, nor how much of it at a time."""
    config = wanted.config.to_dict()
    for key in ("tracking", "output"):
        del config[key]
    for key in ("shards", "mode", "cache", "cache_gib", "workers"):
        del config["data"][key]
    search = {key: value for key, value in asdict(wanted.search).items() if key not in ("concurrent", "retries")}
    space = asdict(wanted.space)
    space["lambda"] = space.pop("lambda_")
    return {**config, "space": {key: value for key, value in space.items() if value is not None}, "search": search}


def _machines() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _storage(wanted: Sweep) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """The file system of trials and their checkpoints, by fsspec where it is a URL, and the folder in it."""
    if "://" not in wanted.where.storage:
        return None, str(Path(wanted.where.storage or Path(wanted.config.output) / "ray").resolve())
    storage = Storage(wanted.where.storage)
    return pyarrow.fs.PyFileSystem(storage), storage.path


@contextmanager
def _cluster(where: RayConfig) -> Iterator[None]:
    """Within the block, Ray: a running cluster, or one on this machine that starts and stops with the block."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    with tempfile.TemporaryDirectory(prefix="privatenet-wheel-") as folder:
        runtime: dict[str, Any] = {"env_vars": IDLE_MUST_NOT_SPIN}
        if where.wheel:
            runtime["py_modules"] = _unpacked(Path(where.wheel), Path(folder))
        here: dict[str, Any] = {"num_cpus": num_cores(), "include_dashboard": where.dashboard}
        # What failed and why, the screen says.
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL", "runtime_env": runtime}
        try:
            ray.init(where.address or "local", **quiet, **({} if where.address else here))
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "; where it asks for a token, set RAY_AUTH_MODE=token here too" if where.address else ""
            raise ConfigError(f"ray.address {where.address or 'local'}: {reason_of(error)}{hint}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _unpacked(wheel: Path, folder: Path) -> list[str]:
    """What is in a wheel, as folders: the wheel itself Ray would install with all that it depends on, torch too."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"ray.wheel {wheel}: is no wheel ({error}); `python -m build --wheel` makes one") from error
    return [str(path) for path in sorted(folder.iterdir())]
