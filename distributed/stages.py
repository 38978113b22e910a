"""The stages, and how they stand on each other: target, adversary (known), private, adversary again (unknown).

Every part has a folder under the run's output: config.yaml, metrics.jsonl, checkpoints/ while it trains, and final/
when it is done. A part's settings are all that decides its result: the configuration's, the data set's fingerprint,
and the hashes of the parts that it stands on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import Config, ConfigError, FitConfig, to_yaml
from privatenet.distributed.faces import Faces
from privatenet.distributed.provenance import differences
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.signals import Interrupted
from privatenet.distributed.tracking.tracker import Tracker
from privatenet.distributed.trainer import (
    AfterEpoch,
    Job,
    Scores,
    evaluate,
    fit,
    score_metrics,
    trained_tensors,
    training_plan,
)
from privatenet.models.adversary import Pair, build_adversary
from privatenet.models.network import Network, NetworkSpec, build_network, check_tap
from privatenet.models.tasks import AdversaryTask, PrivateTask, TargetTask

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """One part before it is trained: where it goes, what decides it, and how to make its job."""

    folder: Path
    stage: str
    settings: dict[str, Any]
    job: Callable[[], Job]
    spec: NetworkSpec


def run_part(
    stage: str, config: Config, faces: Faces, ranks: Ranks, say: Say, testing: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> Checkpoint:  # fmt: skip
    """Train one part, go on with it, or find it done; returns its final checkpoint. All ranks call it together.

    `stage` is target, adversary or private. Without `testing`, the test split is not looked at, and the checkpoint has
    no test scores: it is one of several that are still to be chosen from. Raises `ConfigError` where the part's folder
    holds another run, or a part that it stands on is missing or belongs to another network or data set.
    """
    part = PLANS[stage](config, faces)
    final = part.folder / "final"
    if final.exists():
        done = checkpoint.load(final)
        _check_same(part, done.state["settings"])
        say(f"{part.folder.name:8s} done before, {final}")
        return done
    started = part.folder / "settings.json"
    if started.exists():
        _check_same(part, _read_settings(started))
    torch.manual_seed(config.seed)
    job = part.job()
    plan = training_plan(job, config, ranks)
    dist.barrier()  # all ranks have found nothing wrong before the first one writes
    tracker = _open(part, config, faces, say) if ranks.first else None
    try:
        best = fit(job, plan, config, faces, ranks, part.folder, tracker, after_epoch)
        tested = evaluate(job.task, job.heads, faces.testing(), config, faces, ranks)[0] if testing else {}
    except BaseException as error:
        if tracker:
            tracker.stop("KILLED" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "FAILED")
        raise
    if ranks.first:
        assert tracker is not None
        _finish(part, config, faces, job, best, tested, tracker)
    dist.barrier()
    return checkpoint.load(final)


def run_all(config: Config, faces: Faces, ranks: Ranks, say: Say) -> dict[str, Checkpoint]:
    """Every part in order: target, known, private, unknown."""
    known = _with_network(config, "target")
    unknown = _with_network(config, "private")
    return {
        "target": run_part("target", config, faces, ranks, say),
        "known": run_part("adversary", known, faces, ranks, say),
        "private": run_part("private", config, faces, ranks, say),
        "unknown": run_part("adversary", unknown, faces, ranks, say),
    }


def load_network(found: Checkpoint) -> Network:
    """The network of a target's or private network's checkpoint."""
    network = build_network(NetworkSpec(**found.state["spec"]))
    network.load_state_dict(_strip(found.tensors(), "network."))
    return network


def load_adversary(found: Checkpoint, network: Network, name: str) -> nn.Module:
    """The adversary of pair `name` from an adversaries' checkpoint; `network` is one that it could look at."""
    pair = Pair.parse(name)
    classes = len(Schema.from_dict(found.state["schema"]).attribute(pair.attribute).classes)
    adversary = build_adversary(network.spec, network.tap_shapes, pair.tap, classes)
    adversary.load_state_dict(_strip(found.tensors(), f"adversaries.{name}."))
    return adversary


def _plan_target(config: Config, faces: Faces) -> Plan:
    spec = _spec(config, faces)
    target = faces.schema.target

    def job() -> Job:
        network = build_network(spec, config.model.weights)
        task = TargetTask(network, target, _class_weights(config.target, faces), config.target.label_smoothing)
        return Job(
            task, {target: target}, lambda scores, _: {"network": scores[target].accuracy},
            faces.training([target]), faces.validation([target]), config.target,
        )  # fmt: skip

    return Plan(Path(config.output) / "target", "target", _settings(config, faces, "target"), job, spec)


def _plan_adversary(config: Config, faces: Faces) -> Plan:
    source = _parent(config, faces, config.attack.network, "attack.network")
    spec = NetworkSpec(**source.state["spec"])
    private = source.state["stage"] == "private"
    pairs = _pairs(config, faces, spec, with_image=not private)
    attributes = sorted({pair.attribute for pair in pairs})
    folder = Path(config.output) / {"target": "known", "private": "unknown"}.get(
        config.attack.network, f"adversary-{Path(config.attack.network).name}"
    )

    def job() -> Job:
        network = load_network(source)
        adversaries = nn.ModuleDict(
            {pair.name: build_adversary(spec, network.tap_shapes, pair.tap, _classes(faces, pair)) for pair in pairs}
        )
        return Job(
            AdversaryTask(network, adversaries, pairs),
            {pair.name: pair.attribute for pair in pairs},
            lambda scores, _: {f"adversaries.{name}": result.accuracy for name, result in scores.items()},
            faces.training(attributes), faces.validation(attributes), config.adversary,
        )  # fmt: skip

    settings = _settings(config, faces, "adversary", network=source.hash)
    settings["pairs"] = [pair.name for pair in pairs]
    return Plan(folder, "adversary", settings, job, spec)


def _plan_private(config: Config, faces: Faces) -> Plan:
    protect = config.protect
    start = _parent(config, faces, protect.start, "protect.start")
    known = _parent(config, faces, protect.adversaries, "protect.adversaries")
    spec = NetworkSpec(**start.state["spec"])
    if known.state["settings"]["network"] != start.hash:
        raise ConfigError(f"protect.adversaries: {known.folder} was trained on another network than {start.folder}")
    pairs = [Pair.parse(name) for name in protect.pairs]
    for pair in pairs:
        _check_pair(pair, spec, faces, "protect.pairs")
        if pair.name not in known.state["settings"]["pairs"]:
            accepted = ", ".join(known.state["settings"]["pairs"])
            raise ConfigError(f"protect.pairs: {known.folder} has no adversary {pair.name}: accepted are {accepted}")
    target = faces.schema.target
    attributes = sorted({pair.attribute for pair in pairs})

    def job() -> Job:
        network = load_network(start)
        adversaries = _load_adversaries(known, network, pairs)
        task = PrivateTask(
            network, adversaries, pairs, target, protect.objective, protect.lambda_, protect.pairs,
            {name: _prior(config, faces, name) for name in attributes}, protect.known,
            _class_weights(config.private, faces), config.private.label_smoothing,
        )  # fmt: skip

        def figures(_: Scores, losses: Mapping[str, float]) -> dict[str, float]:
            own = sum(value for name, value in losses.items() if name.startswith("adversary/"))
            return dict.fromkeys(task.trained, -(losses["loss"] - own))

        heads = {target: target, **{pair.name: pair.attribute for pair in pairs}}
        needed = [target, *attributes]
        return Job(task, heads, figures, faces.training(needed), faces.validation(needed), config.private)

    settings = _settings(config, faces, "private", network=start.hash, adversaries=known.hash)
    return Plan(Path(config.output) / "private", "private", settings, job, spec)


PLANS: dict[str, Callable[[Config, Faces], Plan]] = {
    "target": _plan_target,
    "adversary": _plan_adversary,
    "private": _plan_private,
}


def _settings(config: Config, faces: Faces, stage: str, **parents: str) -> dict[str, Any]:
    """What decides a part's result; where the data lie, how they are read and where runs are recorded does not."""
    values = config.to_dict()
    kept = {key: values[key] for key in ("augment", "model", "seed")}
    kept["data"] = {key: values["data"][key] for key in ("validation", "window")}
    kept["engine"] = {key: value for key, value in values["engine"].items() if key != "zero_stage"}
    if stage == "private":
        kept["protect"] = {
            key: value for key, value in values["protect"].items() if key not in ("start", "adversaries")
        }
    return {"stage": stage, "fingerprint": faces.fingerprint, **kept, stage: values[stage], **parents}


def _spec(config: Config, faces: Faces) -> NetworkSpec:
    model = config.model
    classes = len(faces.schema.attribute(faces.schema.target).classes)
    return NetworkSpec(model.backbone, classes, model.image_size, model.head, model.affinity)


def _parent(config: Config, faces: Faces, name: str, key: str) -> Checkpoint:
    """The finished part that `name` means: a part of this output, or any checkpoint folder."""
    own = Path(config.output) / name / "final"
    folder = own if own.exists() or not Path(name).exists() else Path(name)
    if not folder.exists():
        raise ConfigError(f"{key}: there is no finished part {own}; train it first, or give a checkpoint's folder")
    found = checkpoint.load(folder)
    if found.state["settings"]["fingerprint"] != faces.fingerprint:
        raise ConfigError(
            f"{key}: {folder} was trained on the data set {found.state['settings']['fingerprint'][:12]}, "
            f"{config.data.shards} is {faces.fingerprint[:12]}"
        )
    has, wanted = NetworkSpec(**found.state["spec"]), _spec(config, faces)
    if has != wanted:
        raise ConfigError(f"{key}: {folder} belongs to {has}, the settings under `model` ask for {wanted}")
    return found


def _pairs(config: Config, faces: Faces, spec: NetworkSpec, with_image: bool) -> list[Pair]:
    names = dict.fromkeys([*config.attack.pairs, *config.protect.pairs])
    pairs = [Pair.parse(name) for name in names]
    for pair in pairs:
        _check_pair(pair, spec, faces, "attack.pairs")
    return [pair for pair in pairs if with_image or pair.tap != "image"]


def _check_pair(pair: Pair, spec: NetworkSpec, faces: Faces, key: str) -> None:
    check_tap(spec, pair.tap)
    if pair.attribute not in faces.schema.private:
        accepted = ", ".join(faces.schema.private)
        raise ConfigError(f"{key}: {pair.name}: {pair.attribute!r} is no private attribute: accepted are {accepted}")


def _classes(faces: Faces, pair: Pair) -> int:
    return len(faces.schema.attribute(pair.attribute).classes)


def _load_adversaries(found: Checkpoint, network: Network, pairs: list[Pair]) -> nn.ModuleDict:
    return nn.ModuleDict({pair.name: load_adversary(found, network, pair.name) for pair in pairs})


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _class_weights(settings: FitConfig, faces: Faces) -> Tensor | None:
    """Inverse class frequencies, their mean over the samples 1; a class without samples gets none."""
    if settings.class_weights == "none":
        return None
    frequencies = faces.class_frequencies(faces.schema.target)
    present = frequencies > 0
    return torch.where(present, 1 / (present.sum() * frequencies.clamp(min=1e-12)), torch.zeros(()))


def _prior(config: Config, faces: Faces, attribute: str) -> Tensor:
    frequencies = faces.class_frequencies(attribute)
    return frequencies if config.protect.prior == "class" else torch.full_like(frequencies, 1 / len(frequencies))


def _with_network(config: Config, network: str) -> Config:
    return replace(config, attack=replace(config.attack, network=network))


def _check_same(part: Plan, before: dict[str, Any]) -> None:
    changed = differences(before, part.settings)
    if changed:
        raise ConfigError(
            f"{part.folder} holds another run ({changed}): choose another --output, or remove that folder"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def _open(part: Plan, config: Config, faces: Faces, say: Say) -> Tracker:
    part.folder.mkdir(parents=True, exist_ok=True)
    (part.folder / "config.yaml").write_text(to_yaml(config))
    (part.folder / "settings.json").write_text(json.dumps(part.settings, indent=1) + "\n")
    tracker = Tracker(config.tracking, part.folder, part.stage, config.to_dict(), say)
    tracker.data(faces.schema.name, config.data.shards, faces.fingerprint)
    return tracker


def _finish(
    part: Plan, config: Config, faces: Faces, job: Job, best: dict[str, tuple[float, int]],
    tested: Scores, tracker: Tracker,
) -> None:  # fmt: skip
    state = {
        "stage": part.stage,
        "settings": part.settings,
        "config": config.to_dict(),
        "schema": faces.schema.to_dict(),
        "spec": asdict(part.spec),
        "best": best,
        "test": {head: asdict(score) for head, score in tested.items()},
    }
    if tested:
        tracker.log(score_metrics("test", tested), max(epoch for _, epoch in best.values()))
    done = checkpoint.save(part.folder / "final", {"model": trained_tensors(job.task)}, state)
    network = job.task.network if part.stage != "adversary" else None
    tracker.finish(done.hash, network, config.model.image_size)
    checkpoint.keep_only(part.folder / "checkpoints", part.folder)
