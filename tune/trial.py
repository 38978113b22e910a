"""What happens on the machines of a sweep. Three kinds of trials, each of them resumed from its last checkpoint:

    shared    the unprotected network and its adversaries, once for every backbone: what all private networks start from
    private   one private network of a point's settings, attacked by new attackers on validation data
    audit     one chosen network, attacked on the test split

A trial works in a folder of its own, which is its checkpoint. Its ranks, all on one machine, work there together.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from privatenet.audit.attack.audit import audit
from privatenet.audit.attack.features import LOGITS
from privatenet.audit.attack.findings import Findings, write_findings
from privatenet.audit.attack.quick import QuickFindings, leak_metrics, quick_audit
from privatenet.audit.report.card import write_card
from privatenet.audit.report.page import write_report
from privatenet.audit.report.text import attack_name
from privatenet.audit.settings import AuditConfig
from privatenet.distributed import agree, checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config, to_yaml
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.stages.trained import load_network
from privatenet.distributed.tracking.tracker import Tracker
from privatenet.distributed.trainer import EpochEnd
from privatenet.models.adversary import Pair
from privatenet.models.network import NetworkSpec
from privatenet.tune.group import Workers, on_every_rank
from privatenet.tune.space import Point, describe, settings

UNPROTECTED = "unprotected"


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep have in common.

    Args:
        config: Settings of the run that every trial starts from.
        validation: How each network is attacked on validation data.
        test: How chosen networks are attacked on the test split.
        measure_every: Epochs between measurements of leakage; 0 measures at a trial's end only.
        opposed: The tap-attribute pairs where some trial needs a known adversary.
        workers: The ranks of each trial.
        shared: By backbone, the checkpoint of the unprotected network and its adversaries.
        chosen: By name, the checkpoint of each network that is to be audited.
    """

    config: Config
    validation: AuditConfig
    test: AuditConfig
    measure_every: int
    opposed: tuple[str, ...]
    workers: Workers
    shared: Mapping[str, tune.Checkpoint] = field(default_factory=dict)
    chosen: Mapping[str, tune.Checkpoint] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One trial: its `name` among the sweep's runs, the `folder` of its checkpoints, a `scratch` folder beside it, and
    when it was begun, or taken up again, by the clock of its machine."""

    name: str
    point: Point
    plan: TrialPlan
    folder: Path
    scratch: Path
    began: float

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report to Tune, which goes on after this moment if the trial has to be taken up again."""
        # Tune's own time counts on where a process has done other trials before.
        seconds = time.monotonic() - self.began
        tune.report({**metrics, "seconds": seconds}, checkpoint=tune.Checkpoint.from_directory(self.folder))


def train_shared(parameters: Mapping[str, Any], plan: TrialPlan) -> None:
    """Train the unprotected network of one backbone and its adversaries at all pairs, or take finished ones."""
    point = point_of(parameters)
    _run(_shared, base_name(point["backbone"], plan.config), point, plan)


def train_private(parameters: Mapping[str, Any], plan: TrialPlan) -> None:
    """Train and attack the private network of one point."""
    _run(_private, tune.get_context().get_trial_id(), point_of(parameters), plan)


def audit_chosen(parameters: Mapping[str, Any], plan: TrialPlan) -> None:
    """Audit one chosen network on the test split."""
    point = point_of(parameters)
    _run(_audit, point["trial"], point, plan)


def point_of(parameters: Mapping[str, Any]) -> Point:
    """The point among Tune's parameters: they themselves, or one of a list."""
    return dict(parameters.get("point", parameters))


def base_name(backbone: str, config: Config) -> str:
    """The name of the unprotected network of a backbone among a sweep's runs."""
    return UNPROTECTED if backbone == config.model.backbone else f"{UNPROTECTED}-{backbone}"


def _run(work: Callable[[Trial, Ranks], None], name: str, point: Point, plan: TrialPlan) -> None:
    """Do `work` on every rank, in the folder of the trial's last checkpoint or in an empty one."""
    with tempfile.TemporaryDirectory(prefix="privatenet-", ignore_cleanup_errors=True) as temporary:
        trial = Trial(name, point, plan, Path(temporary) / "trial", Path(temporary) / "scratch", time.monotonic())
        if last := tune.get_checkpoint():
            last.to_directory(trial.folder)
        trial.folder.mkdir(exist_ok=True)
        on_every_rank(partial(work, trial), plan.workers)


def _shared(trial: Trial, ranks: Ranks) -> None:
    plan, protect = trial.plan, trial.plan.config.protect
    config = _trial_config(trial)
    terms = [{"at": pair} for pair in plan.opposed if Pair.parse(pair).tap != "image"] or protect.terms
    config = replace(
        config,
        attack=replace(config.attack, pairs=list(plan.opposed), network="target"),
        protect=replace(protect, terms=terms, start="target", adversaries="known"),
    )
    faces = Faces(config.data, ranks)

    def stage(name: str, folder: str, source: str) -> Checkpoint:
        if source == folder:
            return run_stage(
                name, config, faces, ranks, print, after_epoch=lambda end: _report(trial, ranks, end.epoch)
            )
        return agree.first(ranks, lambda: _copy_finished(Path(source), trial.folder / folder, config))

    target = stage("target", "target", protect.start)
    if plan.opposed:
        stage("adversary", "known", protect.adversaries)
    _finish(trial, target, config.target.epochs, config, faces, ranks)


def _private(trial: Trial, ranks: Ranks) -> None:
    plan, config = trial.plan, _trial_config(trial)
    with plan.shared[config.model.backbone].as_directory() as shared:
        protect = replace(config.protect, start=f"{shared}/target/final", adversaries=f"{shared}/known/final")
        config = replace(config, protect=protect)
        agree.first(ranks, lambda: _announce(trial, config))
        faces = Faces(config.data, ranks)
        last_epoch = config.private.epochs

        def after(end: EpochEnd) -> None:
            nonlocal last_epoch
            last_epoch = end.epoch
            if end.last:  # what a trial comes to is reported once its best network has been attacked
                return
            metrics = {"utility": end.scores[faces.schema.target].accuracy}
            if plan.measure_every and end.epoch % plan.measure_every == 0:
                name = f"epoch-{end.epoch}"
                leaks = quick_audit(
                    end.network, name, plan.validation, faces, config.engine, ranks, trial.scratch / name
                )
                metrics |= {"leakage": leaks.leakage.value, "score": metrics["utility"] - leaks.leakage.value}
            _report(trial, ranks, end.epoch, metrics)

        private = run_stage("private", config, faces, ranks, print, testing=False, after_epoch=after)
    _finish(trial, private, last_epoch, config, faces, ranks)


def _audit(trial: Trial, ranks: Ranks) -> None:
    config = _trial_config(trial)
    source = agree.first(ranks, lambda: _fetch_chosen(trial))
    taps = NetworkSpec(**source.state["spec"]).taps
    watched = [tap for tap in trial.plan.test.taps if tap in taps]
    settings = replace(trial.plan.test, taps=watched, cache=str(trial.scratch))
    findings = audit(settings, source, Faces(config.data, ranks), config.engine, ranks, lambda what, done, total: None)
    agree.first(ranks, lambda: _report_audit(trial, source, config, findings))


def _trial_config(trial: Trial) -> Config:
    """The settings of the trial's point, its folder as the output."""
    config = settings(trial.point, trial.plan.config)
    return replace(config, output=str(trial.folder), tracking=replace(config.tracking, trial=trial.name))


def _copy_finished(source: Path, folder: Path, config: Config) -> Checkpoint:
    """Take the finished checkpoint `source` as that of the stage whose folder is `folder`."""
    final = folder / "final"
    if not final.exists():
        shutil.copytree(source, final)
        (folder / "config.yaml").write_text(to_yaml(config))
    return checkpoint.load(final)


def _announce(trial: Trial, config: Config) -> None:
    """Open the trial's run, so that it can be told from others from the start."""
    folder = trial.folder / "private"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    params = {"space": trial.point, **config.to_dict()}
    del params["output"]  # a scratch folder, which would only stand in the way of comparing runs
    tracker = Tracker(config.tracking, folder, "private", params, print)
    tracker.tag({"mlflow.runName": describe(trial.point)})


def _fetch_chosen(trial: Trial) -> Checkpoint:
    """Copy a chosen network's checkpoint into the trial's folder; returns that of its last stage."""
    with trial.plan.chosen[trial.name].as_directory() as chosen:
        shutil.copytree(chosen, trial.folder, dirs_exist_ok=True)
    finals = (trial.folder / stage / "final" for stage in ("private", "target"))
    return checkpoint.load(next(final for final in finals if final.is_dir()))


def _report_audit(trial: Trial, source: Checkpoint, config: Config, findings: Findings | None) -> None:
    """Write the report of an audit, record it in the network's own run, and report its metrics to Tune."""
    assert findings is not None
    stage = source.folder.parent
    report = trial.folder / f"audit-{stage.name}" / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_findings(findings, report / "audit.json")
    write_report(findings, report)
    write_card(findings, report / "model_card.md")
    leaks = [leak for leak in findings.audited.leaks if leak.tap in trial.plan.validation.taps]
    leaks = leaks or [leak for leak in findings.audited.leaks if leak.tap == LOGITS]
    metrics = leak_metrics(findings.audited.utility, leaks, "test")
    tracker = Tracker(config.tracking, stage, source.state["stage"], {}, print)
    tracker.log(metrics, _best_epoch(source))
    tracker.artifacts(report)
    tracker.finish(source.hash, None, 0)
    trial.report(metrics)


def _finish(trial: Trial, final: Checkpoint, epoch: int, config: Config, faces: Faces, ranks: Ranks) -> None:
    """Attack the trial's network on validation data, write down what came of it in its own run, and report it."""
    network, folder = load_network(final, ranks), trial.scratch / "end"
    leaks = quick_audit(network, final.hash, trial.plan.validation, faces, config.engine, ranks, folder)
    metrics = leak_metrics(leaks.utility, leaks.leaks, "validation")
    agree.first(ranks, lambda: _record(final, config, leaks, metrics))
    utility, leakage = leaks.utility.value, leaks.leakage.value
    goals = {"utility": utility, "leakage": leakage, "score": utility - leakage}
    _report(trial, ranks, epoch, {**goals, **metrics})


def _record(final: Checkpoint, config: Config, leaks: QuickFindings, metrics: Mapping[str, float]) -> None:
    tracker = Tracker(config.tracking, final.folder.parent, final.state["stage"], config.to_dict(), print)
    tracker.tag({f"attacker.{leak.tap}-{leak.attribute}": attack_name(leak.headline) for leak in leaks.leaks})
    tracker.log(metrics, _best_epoch(final))
    tracker.finish(final.hash, None, 0)


def _report(trial: Trial, ranks: Ranks, epoch: int, metrics: Mapping[str, float] | None = None) -> None:
    """Report an epoch that is over."""
    agree.first(ranks, lambda: trial.report({"epoch": epoch, **(metrics or {})}))


def _best_epoch(source: Checkpoint) -> int:
    """The epoch that a checkpoint's weights are from."""
    return max(int(epoch) for _, epoch in source.state["best"].values())
