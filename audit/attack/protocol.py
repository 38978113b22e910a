"""An audit, from a checkpoint to findings: features once, the whole fleet, then measures; references beside it.

What costs time is kept, under the run's folder or `cache`, for other audits and for going on: features/, answers/.
"""

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.features import Key, extract
from privatenet.audit.attack.findings import VERSION, Control, Estimate, Findings, Leak, NetworkFindings, Protocol
from privatenet.audit.attack.fleet import KINDS, Campaign, attack, units
from privatenet.audit.attack.judging import Evidence, Judged, leaks, utility
from privatenet.audit.attack.measures import Numbers, Resamples, balanced_accuracy, recorded_accuracy, wilson
from privatenet.audit.attack.samples import Parts, known_parts, split_parts
from privatenet.audit.errors import AuditError
from privatenet.audit.settings import REFERENCES, AuditConfig
from privatenet.distributed import checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.provenance import code_version
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.trained import load_adversaries, load_network
from privatenet.models.adversary import ImageAdversary
from privatenet.models.arm import one_by_one
from privatenet.models.network import Network, NetworkSpec, build_network, check_tap

Say = Callable[[str, int, int], None]
"""Told what is done now, and how many of how many attacks are done."""


@dataclass(frozen=True)
class Suspect:
    """A network to attack: in what role, its name for caches, and its checkpoint (None: never trained)."""

    role: str
    network: Network
    sha256: str
    source: Checkpoint | None


def audit(
    config: AuditConfig, source: Checkpoint, faces: Faces, engine: EngineConfig, ranks: Ranks, say: Say
) -> Findings | None:
    """Attack the network of `source`. All ranks call it together; the first one judges, and alone gets the findings.

    Raises `AuditError` before anything is computed where the settings do not fit the network or the data set.
    """
    began = time.monotonic()
    config = check(config, source, faces)
    campaign = Campaign(tuple(config.attributes), tuple(config.attackers), config.seeds, config.components)
    parts = split_parts(faces.train, faces.test)
    for attribute in config.attributes:
        known_parts(parts, faces, attribute)
    root = Path(config.cache) if config.cache else source.folder.parent.parent
    suspects = _suspects(config, source)
    evidence = [_gather(suspect, config, campaign, faces, parts, engine, ranks, root, say) for suspect in suspects]
    if not ranks.first:
        return None
    say("measures", 0, 0)
    judged = {
        suspect.role: leaks(found, config, campaign, faces, parts, ranks)
        for suspect, found in zip(suspects, evidence, strict=True)
    }
    if "unprotected" in judged:
        judged["audited"] = _compare(judged["audited"], judged["unprotected"], config)
    return Findings(
        version=VERSION,
        package=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=faces.schema.name,
        fingerprint=faces.fingerprint,
        protocol=Protocol(
            fitting=len(parts.fitting),
            tuning=len(parts.tuning),
            testing=len(parts.testing),
            seeds=config.seeds,
            confidence=config.confidence,
            resamples=config.resamples,
            components=config.components,
            precision=engine.precision,
            device=_device(ranks),
            seconds=time.monotonic() - began,
            peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        ),
        networks=tuple(
            _describe(
                suspect,
                faces.schema.target,
                utility(found.features, faces, parts, config.confidence),
                [j.leak for j in judged[suspect.role]],
            )
            for suspect, found in zip(suspects, evidence, strict=True)
        ),
        controls=(*_target_label_controls(config, faces, parts), *_adversary_controls(config, source)),
        config=source.state["config"],
    )


def check(config: AuditConfig, source: Checkpoint, faces: Faces) -> AuditConfig:
    """`config` with what was left open filled in. Raises `AuditError` or `ModelError` for what cannot be."""
    if source.state["stage"] == "adversary":
        raise AuditError(f"{source.folder}: holds adversaries, accepted: a checkpoint of stage target or private")
    if source.state["identity"]["fingerprint"] != faces.fingerprint:
        raise AuditError(
            f"{source.folder} was trained on the data set {source.state['settings']['fingerprint'][:12]}, "
            f"{faces.config.shards} is {faces.fingerprint[:12]}"
        )
    spec = NetworkSpec(**source.state["spec"])
    taps = config.taps or [tap for tap in ("backbone", "arm") if tap in spec.taps]
    for tap in taps:
        if tap == "image":
            raise AuditError("taps: image is no tap; what the picture itself tells is in the controls")
        check_tap(spec, tap)
    for attribute in config.attributes:
        if attribute not in faces.schema.private:
            accepted = ", ".join(faces.schema.private) or "none"
            raise AuditError(
                f"attributes: {attribute!r} is no private attribute of {faces.schema.name}: accepted are {accepted}"
            )
    for name in config.attackers:
        if name not in ATTACKERS:
            raise AuditError(f"attackers: {name!r} is unknown: accepted are {', '.join(ATTACKERS)}")
    attackers = config.attackers or list(ATTACKERS)
    for tap in taps:
        kinds = KINDS["vector" if tap == "arm" else "map"]
        if not any(set(ATTACKERS[name].sees) & set(kinds) for name in attackers):
            raise AuditError(
                f"attackers: none of {', '.join(attackers)} can look at {tap}: choose other taps or attackers"
            )
    for name in config.references:
        if name not in REFERENCES:
            raise AuditError(f"references: {name!r} is unknown: accepted are {', '.join(REFERENCES)}")
    for name, least in {"seeds": 1, "components": 2, "resamples": 100}.items():
        if getattr(config, name) < least:
            raise AuditError(f"{name} is {getattr(config, name)}: accepted are numbers of at least {least}")
    if not 0.5 <= config.confidence < 1:
        raise AuditError(f"confidence is {config.confidence}: accepted are numbers from 0.5 to 1")
    attributes = config.attributes or list(faces.schema.private)
    return replace(config, taps=taps, attributes=attributes, attackers=attackers)


def excess_above(findings: Findings, limits: Mapping[str, float]) -> list[str]:
    """One line for every leak of the audited network whose excess is above its attribute's limit, a share."""
    return [
        f"{leak.attribute} at {leak.tap}: {100 * leak.headline.excess.value:.1f} points above the majority class, "
        f"allowed are {100 * limits[leak.attribute]:.1f}"
        for leak in findings.audited.leaks
        if leak.headline.excess.value > limits.get(leak.attribute, np.inf)
    ]


def _suspects(config: AuditConfig, source: Checkpoint) -> list[Suspect]:
    audited = Suspect("audited", load_network(source), source.hash, source)
    out = [audited]
    if "unprotected" in config.references and source.state["stage"] == "private":
        start = _sibling(source, source.state["identity"]["network"], source.state["config"]["protect"]["start"])
        if start is not None:
            out.append(Suspect("unprotected", load_network(start), start.hash, start))
    if "random" in config.references:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network(audited.network.spec)
        out.append(Suspect("random", network, f"random-{_digest(network)}", None))
    return out


def _sibling(source: Checkpoint, sha256: str, name: str) -> Checkpoint | None:
    """The part that `source` was made from: where its settings say, if that is still the same network."""
    for folder in (source.folder.parent.parent / name / "final", Path(name)):
        if (folder / "state.json").is_file() and (found := checkpoint.load(folder)).hash == sha256:
            return found
    return None


def _gather(
    suspect: Suspect, config: AuditConfig, campaign: Campaign, faces: Faces, parts: Parts, engine: EngineConfig,
    ranks: Ranks, root: Path, say: Say,
) -> Evidence:  # fmt: skip
    """Features of one network, and the whole fleet's answers about them; what is there already is not done again."""
    key = Key(suspect.sha256, faces.fingerprint, engine.precision, suspect.network.spec.image_size)
    say(f"{suspect.role}: features", 0, 0)
    features = extract(suspect.network, key, config.taps, faces, engine, ranks, root / "features")
    donors = _donors(suspect, config)
    folder = root / "answers" / f"{key.folder}-{campaign.digest}"
    missing = [unit for unit in units(features, campaign) if not (folder / unit.file).is_file()]
    total, done = len(missing), 0

    def advance(what: str) -> None:
        nonlocal done
        done += ranks.world_size
        say(f"{suspect.role}: {what}", min(done, total), total)

    results = attack(features, faces, parts, donors, campaign, ranks, folder, advance)
    return Evidence(features, donors, results, folder)


def _compare(own: list[Judged], others: list[Judged], config: AuditConfig) -> list[Judged]:
    """With the change against the reference network, paired by test sample, and the paper's robustness."""

    def changed(leak: Leak, right: Numbers, reference: Numbers) -> Leak:
        change = Resamples(len(right), config.resamples, config.confidence).mean(right - reference)
        return replace(leak, change=change, robustness=change.value / float(reference.mean()))

    return [replace(j, leak=changed(j.leak, j.right, other.right)) for j, other in zip(own, others, strict=True)]


def _describe(suspect: Suspect, target: str, reached: tuple[Estimate, float], found: list[Leak]) -> NetworkFindings:
    state = suspect.source.state if suspect.source else None
    protect = state["config"]["protect"] if state and state["stage"] == "private" else None
    return NetworkFindings(
        role=suspect.role,
        stage=state["stage"] if state else "untrained",
        checkpoint=str(suspect.source.folder) if suspect.source else "",
        sha256=suspect.sha256,
        target=target,
        utility=reached[0],
        utility_majority=reached[1],
        objective=_objective(protect["terms"]) if protect else "",
        lambda_=protect["lambda"] if protect else None,
        protected=tuple(dict.fromkeys(term["at"] for term in protect["terms"])) if protect else (),
        affinity=suspect.network.spec.affinity,
        leaks=tuple(found),
        curves=_curves(suspect.source.folder.parent / "metrics.jsonl") if suspect.source else {},
    )


def _objective(terms: Sequence[Mapping[str, Any]]) -> str:
    """The objectives of a private network in words: `confusion (alternating)`."""

    def words(term: Mapping[str, Any]) -> str:
        known = "alternating" if isinstance(term.get("known"), Mapping) else term.get("known", "")
        return f"{term['objective']} ({known})" if known else str(term["objective"])

    return ", ".join(dict.fromkeys(map(words, terms)))


def _donors(suspect: Suspect, config: AuditConfig) -> dict[str, Network]:
    """For every attribute the network whose upper layers a fine-tuning attacker starts from."""
    own = one_by_one(suspect.network).cpu()
    donors = dict.fromkeys(config.attributes, own)
    known = _known(suspect.source) if suspect.source else None
    for attribute in config.attributes if known else ():
        if known and f"image-{attribute}" in known.state["identity"]["pairs"]:
            (adversary,) = load_adversaries(known, own, [f"image-{attribute}"]).values()
            assert isinstance(adversary, ImageAdversary)
            donors[attribute] = one_by_one(adversary.network).cpu()
    return donors


def _known(source: Checkpoint) -> Checkpoint | None:
    """The adversaries that were trained with this network, or on the one that it started from."""
    if source.state["stage"] == "private":
        settings = source.state["identity"]
        return _sibling(source, settings["adversaries"], source.state["config"]["protect"]["adversaries"])
    return _adversaries_on(source, "known")


def _adversaries_on(source: Checkpoint, part: str) -> Checkpoint | None:
    """The run's adversaries of that name, if it is this network that they were trained on."""
    folder = source.folder.parent.parent / part / "final"
    found = checkpoint.load(folder) if (folder / "state.json").is_file() else None
    return found if found and found.state["identity"]["network"] == source.hash else None


def _target_label_controls(config: AuditConfig, faces: Faces, parts: Parts) -> list[Control]:
    """What the true target label alone tells: the most frequent class among the fitting samples of that label."""
    column = faces.schema.names.index(faces.schema.target)
    out = []
    for attribute in config.attributes:
        known, labels, _, truth = known_parts(parts, faces, attribute)
        target, seen = faces.train.labels[known.fitting, column], faces.test.labels[known.testing, column]
        overall = int(np.bincount(labels).argmax())
        guess = {t: int(np.bincount(labels[target == t]).argmax()) for t in np.unique(target)}
        right = np.array([guess.get(t, overall) for t in seen]) == truth
        drawn = Resamples(len(truth), config.resamples, config.confidence)
        classes = len(faces.schema.attribute(attribute).classes)
        accuracy = wilson(int(right.sum()), len(right), config.confidence)
        balanced = balanced_accuracy(right.astype(np.float64), truth, classes, drawn)
        out.append(Control("target-label", "", attribute, accuracy, balanced))
    return out


def _adversary_controls(config: AuditConfig, source: Checkpoint) -> list[Control]:
    """The adversaries of the training run itself: on pictures, on the unprotected network, and the known ones here."""
    out = []
    known = _known(source)
    sources = [("unprotected-adversary", known)] if known else []
    if source.state["stage"] == "private":
        sources.append(("known-adversary", source))
        if (unknown := _adversaries_on(source, "unknown")) is not None:
            sources.append(("unknown-adversary", unknown))
    for kind, found in sources:
        for head, score in found.state["test"].items():
            tap, _, attribute = head.partition("-")
            if attribute in config.attributes:
                accuracy = recorded_accuracy(score, config.confidence)
                balanced = Estimate(score["balanced_accuracy"], float("nan"), float("nan"))
                image = tap == "image"
                out.append(
                    Control("image-adversary" if image else kind, "" if image else tap, attribute, accuracy, balanced)
                )
    return out


def _curves(path: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    curves: dict[str, list[tuple[float, ...]]] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for name, value in record.items():
                if name.startswith(("train/", "validation/")) and not name.endswith(("majority", "samples")):
                    curves.setdefault(name, []).append((record["epoch"], value))
    return {name: tuple(points) for name, points in curves.items()}


def _digest(network: Network) -> str:
    spec = network.spec
    return f"{spec.backbone}-{spec.head}-{spec.num_classes}"


def _device(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        return f"{ranks.world_size} x {torch.cuda.get_device_name(ranks.device)}"
    return (
        f"{ranks.world_size} CPU process{'es' if ranks.world_size > 1 else ''}, {torch.get_num_threads()} threads each"
    )
