"""The fleet: every attacker on every representation of every tap, after every private attribute.

Each of these units leaves one file of answers, so that an interrupted audit goes on with the missing ones, and ranks
share the work by taking turns:

    answers/<network>-<settings>/backbone-gender/logistic-whitened.npz
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch.distributed as dist

from privatenet.audit.attack.attackers import ATTACKERS, Answers, Setting
from privatenet.audit.attack.features import Array, Features
from privatenet.audit.attack.measures import Numbers, calibrate, class_frequencies, probabilities
from privatenet.audit.attack.samples import Labels, Parts, Representation, known_parts, representations
from privatenet.audit.errors import AuditError
from privatenet.data_shards.files import replacing
from privatenet.data_shards.reading.plan import Rows
from privatenet.distributed.config import digest
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks
from privatenet.models.network import Network

KINDS = {"map": ("map", "raw", "whitened", "channels"), "vector": ("vector", "raw", "whitened")}

Advance = Callable[[str], None]
"""Told of every unit when it is done."""


@dataclass(frozen=True)
class Campaign:
    """What is attacked, after what, by whom and how often."""

    attributes: tuple[str, ...]
    attackers: tuple[str, ...]
    seeds: int
    components: int

    @property
    def digest(self) -> str:
        """Changes with what answers depend on; which attributes and attackers there are is no part of it."""
        return digest([self.seeds, self.components])[:8]


@dataclass(frozen=True)
class Unit:
    """One attacker on one representation of one tap, after one attribute."""

    tap: str
    attribute: str
    attacker: str
    representation: str

    @property
    def file(self) -> Path:
        return Path(f"{self.tap}-{self.attribute}") / f"{self.attacker}-{self.representation}.npz"


@dataclass(frozen=True)
class Result:
    """The answers of a unit, what its attacker looked at, and how long all its seeds took."""

    unit: Unit
    answers: Answers
    numbers: int
    note: str
    seconds: float


def units(features: Features, campaign: Campaign) -> list[Unit]:
    """All units, those that share a representation side by side."""
    return [
        Unit(tap, attribute, name, kind)
        for tap, shape in features.shapes.items()
        for kind in KINDS["map" if len(shape) == 3 else "vector"]
        for attribute in campaign.attributes
        for name in campaign.attackers
        if kind in ATTACKERS[name].sees
    ]


def attack(
    features: Features, faces: Faces, parts: Parts, donors: Mapping[str, Network], campaign: Campaign, ranks: Ranks,
    folder: Path, advance: Advance,
) -> list[Result]:  # fmt: skip
    """Answers of all units, computed or found in `folder`; all ranks call it together and get them all."""
    todo = units(features, campaign)
    own = [unit for place, unit in enumerate(todo) if place % ranks.world_size == ranks.rank]
    missing = [unit for unit in own if not (folder / unit.file).is_file()]
    for tap in dict.fromkeys(unit.tap for unit in missing):
        for seen in representations(features, tap, parts, campaign.components, seed=0):
            for unit in missing:
                if (unit.tap, unit.representation) == (tap, seen.kind):
                    _write(folder / unit.file, _run(unit, seen, faces, parts, donors, campaign, ranks))
                    advance(f"{unit.tap} {unit.attribute} {unit.attacker} {unit.representation}")
    dist.barrier()
    return [_read(folder / unit.file, unit) for unit in todo]


def answers(result: Result, labels: tuple[Labels, Labels], classes: int) -> Iterator[tuple[Numbers, Numbers]]:
    """For every seed, calibrated log-probabilities [N, K] of the tuning and of the testing samples.

    `labels` are those of the fitting and of the tuning samples.
    """
    frequencies = class_frequencies(labels[0], classes)
    for tuning, testing in zip(result.answers.tuning, result.answers.testing, strict=True):
        fitted = calibrate(tuning.astype(np.float64), labels[1])
        yield tuple(probabilities(part.astype(np.float64), fitted, frequencies) for part in (tuning, testing))  # type: ignore[misc]


def learning_blocks(
    result: Result, shown: Callable[[str], Mapping[str, Representation]], faces: Faces, parts: Parts,
    donors: Mapping[str, Network], ranks: Ranks, folder: Path,
) -> list[tuple[Numbers, Labels]]:  # fmt: skip
    """The fitting labels in blocks of doubling size, each answered by the attacker from what came before it.

    What the online code length is made of; the first sixteenth goes by the uniform code. Kept in `folder`; `shown`
    gives a tap's representations by kind.
    """
    unit = result.unit
    known, labels, tuning_labels, _ = known_parts(parts, faces, unit.attribute)
    order = np.random.default_rng(0).permutation(len(labels))
    ends = [max(2, len(labels) // share) for share in (16, 8, 4, 2, 1)]
    path = folder / unit.file.with_name(f"code-{unit.file.stem}.npy")
    classes = len(faces.schema.attribute(unit.attribute).classes)
    if not path.is_file():
        seen = shown(unit.tap)[unit.representation].of(known, parts)
        setting = Setting(unit.tap, donors[unit.attribute], classes, (0,), ranks.device)
        with replacing(path) as stream:
            np.save(stream, _online(unit, seen, labels, tuning_labels, order, ends, setting))
    log_p = np.load(path, allow_pickle=False)
    return [(log_p[start:end], labels[order[start:end]]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _online(
    unit: Unit, seen: Representation, labels: Labels, tuning_labels: Labels, order: Rows, ends: list[int],
    setting: Setting,
) -> Numbers:  # fmt: skip
    """Log-probabilities [N, K] of the fitting samples in `order`, each block's from the blocks before it."""
    pieces = [np.full((ends[0], setting.num_classes), -np.log(setting.num_classes))]
    for start, end in pairwise(ends):
        before, block = order[:start], order[start:end]
        frequencies = class_frequencies(labels[before], setting.num_classes)
        if len(np.unique(labels[before])) < 2:
            pieces.append(np.tile(np.log(frequencies), (len(block), 1)))
            continue
        partial = Representation(seen.kind, seen.fitting[before], seen.tuning, seen.fitting[block], seen.note)
        given = ATTACKERS[unit.attacker].attack(partial, labels[before], tuning_labels, setting)
        fitted = calibrate(given.tuning[0].astype(np.float64), tuning_labels)
        pieces.append(probabilities(given.testing[0].astype(np.float64), fitted, frequencies))
    return np.concatenate(pieces)


def _run(
    unit: Unit, seen: Representation, faces: Faces, parts: Parts, donors: Mapping[str, Network], campaign: Campaign,
    ranks: Ranks,
) -> Result:  # fmt: skip
    known, labels, tuning_labels, _ = known_parts(parts, faces, unit.attribute)
    shown = seen.of(known, parts)
    classes = len(faces.schema.attribute(unit.attribute).classes)
    setting = Setting(unit.tap, donors[unit.attribute], classes, tuple(range(campaign.seeds)), ranks.device)
    began = time.monotonic()
    given = ATTACKERS[unit.attacker].attack(shown, labels, tuning_labels, setting)
    return Result(unit, given, int(np.prod(shown.shape)), seen.note, time.monotonic() - began)


def _write(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"numbers": result.numbers, "note": result.note, "seconds": round(result.seconds, 3)})
    with replacing(path) as stream:
        np.savez(stream, tuning=result.answers.tuning, testing=result.answers.testing, about=np.array(about))


def _read(path: Path, unit: Unit) -> Result:
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays: tuple[Array, Array] = file["tuning"], file["testing"]
    except (OSError, ValueError, KeyError) as error:
        raise AuditError(f"{path}: is damaged ({error}); remove it, it will be computed again") from error
    return Result(unit, Answers(*arrays), **about)
