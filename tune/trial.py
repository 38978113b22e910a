"""What happens on the machines of a sweep. Three kinds of trials, each of them resumed from its last checkpoint:

    shared    the unprotected network and its adversaries, once for every backbone: what all private networks start from
    private   one private network of the chosen settings, looked at by new attackers on validation data
    audit     one chosen network, attacked on the test split

A trial works in a folder of its own, which is its checkpoint.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ray import tune

from privatenet.audit.attack.audit import audit
from privatenet.audit.attack.findings import write_findings
from privatenet.audit.attack.quick import QuickFindings, leak_metrics, quick_audit
from privatenet.audit.report.card import write_card
from privatenet.audit.report.page import write_report
from privatenet.audit.report.text import attack_name
from privatenet.audit.settings import AuditConfig
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config, to_yaml
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.run import run_stage
from privatenet.distributed.stages.trained import load_network
from privatenet.distributed.tracking.tracker import Tracker
from privatenet.distributed.trainer import EpochEnd
from privatenet.tune.group import Workers, on_every_rank
from privatenet.tune.space import Point, describe, settings

UNPROTECTED = "unprotected"


@dataclass(frozen=True)
class Plan:
    """What all trials of a sweep are given.

    `protected` are the pairs that some trial protects, `look` is how trials are looked at, `audit` how those that were
    chosen are. `shared` holds, by backbone, the checkpoint of the unprotected network and its adversaries; `chosen`, by
    trial, the checkpoint of a network that is to be audited.
    """

    config: Config
    look: AuditConfig
    audit: AuditConfig
    measure_every: int
    protected: tuple[str, ...]
    workers: Workers
    shared: Mapping[str, tune.Checkpoint] = field(default_factory=dict)
    chosen: Mapping[str, tune.Checkpoint] = field(default_factory=dict)


def train_shared(given: Mapping[str, Any], plan: Plan) -> None:
    """Train the unprotected network of one backbone and its adversaries at all pairs, or take those that are given."""
    _work(_shared, point_of(given), plan)


def train_private(given: Mapping[str, Any], plan: Plan) -> None:
    """Train and look at the private network of one point."""
    _work(_private, point_of(given), plan)


def audit_chosen(given: Mapping[str, Any], plan: Plan) -> None:
    """Audit one chosen network on the test split."""
    _work(_audit, point_of(given), plan)


def point_of(given: Mapping[str, Any]) -> Point:
    """The point that Tune gives: on its own, or as one of a list."""
    return dict(given.get("point", given))


def _work(work: Callable[..., None], point: Point, plan: Plan) -> None:
    trial = tune.get_context().get_trial_id()
    with tempfile.TemporaryDirectory(prefix="privatenet-", ignore_cleanup_errors=True) as folder:
        kept, scratch = Path(folder) / "trial", Path(folder) / "scratch"
        if found := tune.get_checkpoint():
            found.to_directory(kept)
        kept.mkdir(exist_ok=True)
        on_every_rank(partial(work, point, plan, trial, kept, scratch), plan.workers)


def _shared(point: Point, plan: Plan, trial: str, kept: Path, scratch: Path, ranks: Ranks) -> None:
    config = settings(point, plan.config)
    own = plan.config.protect
    name = UNPROTECTED if config.model.backbone == plan.config.model.backbone else f"{UNPROTECTED}-{point['backbone']}"
    config = replace(
        config,
        output=str(kept),
        tracking=replace(config.tracking, trial=name),
        attack=replace(config.attack, pairs=list(plan.protected), network="target"),
        protect=replace(own, terms=[{"at": pair} for pair in plan.protected], start="target", adversaries="known"),
    )
    faces = Faces(config.data, ranks)

    def part(stage: str, folder: str, given: str) -> Checkpoint:
        final = kept / folder / "final"
        if given == folder:
            return run_stage(
                stage, config, faces, ranks, print, after_epoch=lambda end: _tell(end.epoch, {}, kept, ranks)
            )
        if ranks.first and not final.exists():
            shutil.copytree(given, final)
            (kept / folder / "config.yaml").write_text(to_yaml(config))
        dist.barrier()
        return checkpoint.load(final)

    target = part("target", "target", own.start)
    part("adversary", "known", own.adversaries)
    _finish(_look(target, plan, config, faces, ranks, scratch), target, config, config.target.epochs, kept, ranks)


def _private(point: Point, plan: Plan, trial: str, kept: Path, scratch: Path, ranks: Ranks) -> None:
    config = settings(point, plan.config)
    with plan.shared[config.model.backbone].as_directory() as shared:
        start, adversaries = f"{shared}/target/final", f"{shared}/known/final"
        config = replace(
            config,
            output=str(kept),
            tracking=replace(config.tracking, trial=trial),
            protect=replace(config.protect, start=start, adversaries=adversaries),
        )
        if ranks.first:
            _announce(point, config, kept / "private")
        faces = Faces(config.data, ranks)
        epoch = config.private.epochs

        def after(end: EpochEnd) -> None:
            nonlocal epoch
            epoch = end.epoch
            if end.last:  # what a trial comes to is told once its best network has been looked at
                return
            told = {"utility": end.scores[faces.schema.target].accuracy}
            if plan.measure_every and end.epoch % plan.measure_every == 0:
                name = f"epoch-{end.epoch}"
                seen = quick_audit(end.network, name, plan.look, faces, config.engine, ranks, scratch / name)
                told |= {"leakage": seen.leakage.value, "score": told["utility"] - seen.leakage.value}
            _tell(end.epoch, told, kept, ranks)

        private = run_stage("private", config, faces, ranks, print, testing=False, after_epoch=after)
    _finish(_look(private, plan, config, faces, ranks, scratch), private, config, epoch, kept, ranks)


def _announce(point: Point, config: Config, folder: Path) -> None:
    """Open the trial's run, so that it can be told from others from the start."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    told = {"space": point, **config.to_dict()}
    del told["output"]  # a scratch folder, which would only stand in the way of comparing runs
    tracker = Tracker(config.tracking, folder, "private", told, print)
    tracker.tag({"mlflow.runName": describe(point)})


def _audit(point: Point, plan: Plan, trial: str, kept: Path, scratch: Path, ranks: Ranks) -> None:
    if ranks.first:
        with plan.chosen[point["trial"]].as_directory() as found:
            shutil.copytree(found, kept, dirs_exist_ok=True)
    dist.barrier()
    part = next(folder for name in ("private", "target") if (folder := kept / name / "final").is_dir())
    source = checkpoint.load(part)
    config = replace(plan.config, tracking=replace(plan.config.tracking, trial=point["trial"]))
    faces = Faces(config.data, ranks)
    own = replace(plan.audit, cache=str(scratch))
    findings = audit(own, source, faces, config.engine, ranks, lambda what, done, total: None)
    if not ranks.first:
        return
    report = kept / f"audit-{part.parent.name}" / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_findings(findings, report / "audit.json")
    write_report(findings, report)
    write_card(findings, report / "model_card.md")
    watched = [leak for leak in findings.audited.leaks if leak.tap in plan.look.taps]
    told = leak_metrics(findings.audited.utility, watched, "test")
    tracker = Tracker(config.tracking, part.parent, source.state["stage"], {}, print)
    tracker.log(told, _epochs(source))
    tracker.artifacts(report)
    tracker.finish(source.hash, None, 0)
    tune.report(told, checkpoint=tune.Checkpoint.from_directory(kept))


def _look(part: Checkpoint, plan: Plan, config: Config, faces: Faces, ranks: Ranks, scratch: Path) -> QuickFindings:
    return quick_audit(load_network(part), part.hash, plan.look, faces, config.engine, ranks, scratch / "end")


def _tell(epoch: int, figures: Mapping[str, float], kept: Path, ranks: Ranks) -> None:
    """Report an epoch that is over; from now on the trial goes on after it."""
    if ranks.first:
        tune.report({"epoch": epoch, **figures}, checkpoint=tune.Checkpoint.from_directory(kept))


def _finish(seen: QuickFindings, part: Checkpoint, config: Config, epoch: int, kept: Path, ranks: Ranks) -> None:
    """Write down what the trial comes to, in its own run, and report it."""
    if not ranks.first:
        return
    told = leak_metrics(seen.utility, seen.leaks, "validation")
    tracker = Tracker(config.tracking, part.folder.parent, part.state["stage"], config.to_dict(), print)
    tracker.tag({f"attacker.{leak.tap}-{leak.attribute}": attack_name(leak.headline) for leak in seen.leaks})
    tracker.log(told, _epochs(part))
    tracker.finish(part.hash, None, 0)
    named = {"utility": seen.utility.value, "leakage": seen.leakage.value}
    named["score"] = named["utility"] - named["leakage"]
    _tell(epoch, {**named, **told}, kept, ranks)


def _epochs(part: Checkpoint) -> int:
    """The epoch that a part's weights are from."""
    return max(int(epoch) for _, epoch in part.state["best"].values())
