"""A sweep, from settings to a front: what is shared once, then the trials, then an audit of those that nothing beats.

output/sweep.yaml            the settings; `--resume` goes on only with the same ones
output/ray/                  what Tune keeps of each phase, by trial its newest checkpoint (or in `ray.storage`)
output/front/<trial>/        chosen networks with their reports
output/compare/              the front as table, page and picture
"""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.pareto import front
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed.config import Config, TrackingConfig, digest
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.progress import silent
from privatenet.distributed.tracking import outbox
from privatenet.distributed.tracking.sender import deliver
from privatenet.distributed.tracking.tracker import conclude, log_files, parent_run
from privatenet.tune.cluster import cluster
from privatenet.tune.compare.candidates import UNPROTECTED, Candidate, Measures
from privatenet.tune.group import Workers
from privatenet.tune.phases import GOALS, STOPPED, Phase, TrialResult, run_phase
from privatenet.tune.settings import SearchConfig, SweepConfig
from privatenet.tune.space import backbones, corners, describe, opposed, watched
from privatenet.tune.storage import SETTINGS, Storage, begin
from privatenet.tune.trial import TrialPlan, audit_chosen, base_name, train_private, train_shared

PARENT = "mlflow.yaml"
"""The sweep's run in MLflow, in the storage: a hash of the store's URI, which may hold a password, and the run's id."""


def run_sweep(sweep: SweepConfig, resume: bool) -> list[Candidate]:
    """Do what is not done yet, and return the network of every trial, the unprotected ones first.

    Raises `ConfigError` where settings are not accepted, where a sweep may not begin or go on in the output and the
    storage, and where even the unprotected network cannot be trained; `Interrupted` where it was asked to stop.
    """
    _check_attackers(sweep.search)
    storage = begin(sweep, resume)
    output = Path(sweep.config.output)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # which Tune ends in order at
    _restore_parent(sweep.config.tracking, storage, output)
    with cluster(sweep.ray), parent_run(sweep.config.tracking, output, "sweep") as tracking:
        storage.write(PARENT, {"store": digest(tracking.uri), "run_id": tracking.parent})
        sweep = replace(sweep, config=replace(sweep.config, tracking=tracking))
        shared, trials, audits = _run_phases(sweep, storage)
        config = sweep.config
        networks = [
            candidate(False, base_name(base.point["backbone"], config), base, audits, config) for base in shared
        ]
        networks += [candidate(True, trial.trial, trial, audits, config) for trial in trials]
        _deliver(output, tracking.uri)
        for network in networks:
            _conclude(network, tracking, output / "ended")
        log_files(tracking, [output / SETTINGS])
    return networks


def _run_phases(
    sweep: SweepConfig, storage: Storage
) -> tuple[list[TrialResult], list[TrialResult], dict[str, TrialResult]]:
    """The results of the unprotected networks, of all trials and, by name of the network, of the audits."""
    config, search = sweep.config, sweep.search
    plan = _plan(sweep)
    bases = [{"backbone": backbone} for backbone in backbones(sweep.space, config)]
    shared = run_phase(Phase("shared", train_shared, plan, bases), sweep, storage)
    for base in shared:
        if not base.finished:
            raise ConfigError(f"the unprotected network could not be trained: {base.failure}")

    plan = replace(plan, shared={base.point["backbone"]: base.checkpoint for base in shared if base.checkpoint})
    points = list(corners(sweep.space, config)) if search.algorithm == "grid" else None
    trials = run_phase(Phase("trials", train_private, plan, points, search.stop_early), sweep, storage)

    best = choose([trial for trial in trials if trial.finished], search.goal)
    if search.audit == "none" or not best:
        return shared, trials, {}
    chosen = {base_name(base.point["backbone"], config): base.checkpoint for base in shared}
    chosen |= {trial.trial: trial.checkpoint for trial in best}
    plan = replace(plan, chosen={name: checkpoint for name, checkpoint in chosen.items() if checkpoint})
    audits = run_phase(Phase("audits", audit_chosen, plan, [{"trial": name} for name in plan.chosen]), sweep, storage)
    return shared, trials, {audit.point["trial"]: audit for audit in audits}


def _plan(sweep: SweepConfig) -> TrialPlan:
    search, config = sweep.search, sweep.config
    taps, attributes = watched(sweep.space, search, config)
    attackers = list(search.attackers)
    quick = AuditConfig(taps, attributes=attributes, attackers=attackers, seeds=1, components=256, references=[])
    full = replace(quick, attackers=list(ATTACKERS), seeds=3, components=512)
    test = full if search.audit == "full" else quick
    return TrialPlan(config, quick, test, search.measure_every, tuple(opposed(sweep.space, config)), Workers(1, 1, 0))


def choose(finished: Sequence[TrialResult], goal: str) -> list[TrialResult]:
    """The trials that are worth an audit: the front or, with a single goal, the best."""
    if goal == "front":
        on_front = front([trial.trade_off for trial in finished])
        return [trial for trial, good in zip(finished, on_front, strict=True) if good]
    sign = 1 if GOALS[goal] == "max" else -1
    return sorted(finished, key=lambda trial: sign * trial.metrics[goal], reverse=True)[:1]


def _restore_parent(tracking: TrackingConfig, storage: Storage, output: Path) -> None:
    """Where the output folder is lost, let the sweep go on in its own MLflow run, if that is in the same store."""
    parent = storage.read(PARENT)
    lost = outbox.read_sent(output) is None
    if lost and tracking.uri and parent.get("run_id") and parent["store"] == digest(tracking.uri):
        outbox.write_sent(output, outbox.Sent(tracking.uri, parent["run_id"]))


def _check_attackers(search: SearchConfig) -> None:
    for name in search.attackers or [""]:
        if name not in ATTACKERS:
            raise ConfigError(f"search.attackers: {name!r} is not accepted: they are {', '.join(ATTACKERS)}")


def candidate(
    private: bool, name: str, result: TrialResult, audits: Mapping[str, TrialResult], config: Config
) -> Candidate:
    """The network of a trial, to be compared; an audited one is brought to the output's folder."""
    audit, stage = audits.get(name), "private" if private else "target"
    checkpoint = f"{result.checkpoint.path}/{stage}/final" if result.checkpoint and result.finished else ""
    if audit and audit.checkpoint:
        folder = Path(config.output) / "front" / name
        shutil.rmtree(folder, ignore_errors=True)
        audit.checkpoint.to_directory(str(folder))
        checkpoint = f"{folder}/{stage}/final"
    unfinished = "KILLED" if result.failure == STOPPED else "FAILED"
    return Candidate(
        run_id=name,
        name=describe(result.point) if private else name,
        status="FINISHED" if result.finished else unfinished,
        group=result.point.get("objective", config.protect.specs[0].objective) if private else UNPROTECTED,
        settings=result.point if private else {},
        validation=Measures.of(result.metrics, "validation"),
        test=Measures.of(audit.metrics if audit else {}, "test"),
        checkpoint=checkpoint,
        reason=result.failure,
    )


def _deliver(output: Path, uri: Uri) -> None:
    """Send what trials could not tell MLflow while it was away; where it still is, the sweep's own run says so."""
    with suppress(ConfigError):
        for folder in outbox.find([output]):
            deliver(folder, silent, uri)


def _conclude(network: Candidate, tracking: TrackingConfig, folder: Path) -> None:
    """Tell its MLflow run what only the sweep knows: where its checkpoint is, or why it has none."""
    trial, stage = network.run_id, "private" if network.private else "target"
    failure = {"failure": network.reason} if network.reason else {}
    tags = {"stage": stage, "trial": trial, "checkpoint": network.checkpoint, **failure, "mlflow.runName": network.name}
    params = {f"space.{key}": str(value) for key, value in network.settings.items()}
    status = network.status if network.status != "FINISHED" else ""
    conclude(replace(tracking, trial=trial), folder / trial, stage, params, tags, status, silent)
