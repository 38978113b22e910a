"""The fleet: every attacker on every representation of every tap, after every private attribute.

Ranks share these attacks: each that is free takes the next one. Answers are written down on the first rank's machine,
its own at once and others' tap by tap, and read there, so that an interrupted audit goes on with what is missing. An
attack has one thread: its problems are small, and more threads make most of them slower.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from privatenet.audit.attack import attackers, fitting, measures, representations, samples, together
from privatenet.audit.attack.answers import Stored, code_digest, library_versions, read, write
from privatenet.audit.attack.attackers import ATTACKERS, FineTuned
from privatenet.audit.attack.features import Features, releases_of
from privatenet.audit.attack.fitting import Answers, AttackContext
from privatenet.audit.attack.representations import KINDS, REDUCED, Representation, form_of, represent
from privatenet.audit.attack.samples import AttackLabels, AttackSplit, Folds, LabelledFaces, labelled_split
from privatenet.audit.settings import FRESH, TRAINING, AuditConfig
from privatenet.distributed import agree
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.threads import one_thread
from privatenet.models import adversary, arm
from privatenet.models.channel import CENTRE
from privatenet.models.network import Network

CODE = (attackers, fitting, measures, together, samples, representations, adversary, arm)
"""What attackers are made of: a change in one of these files, or in an attacker's own, has its attacks run again."""

NOTES = {"numbers", "note", "seconds"}
"""What is kept beside a unit's answers."""

Progress = Callable[[str, int, int], None]
"""Callback before a piece of work and after each attack: (description, number of the attack, attacks in all)."""


@dataclass(frozen=True)
class Unit:
    """One attacker on one representation of one tap, after one attribute, fitted on one fold of a kind of faces."""

    tap: str
    attribute: str
    attacker: str
    representation: str
    faces: str = TRAINING
    fold: int = 0

    def __str__(self) -> str:
        words = f"{self.tap} {self.attribute} {self.attacker} {self.representation}"
        return words if self.faces == TRAINING else f"{words} {self.faces} {self.fold + 1}"


@dataclass(frozen=True)
class Result:
    """The answers of a unit; how many numbers its attacker looked at, what they are, and how long all seeds took."""

    unit: Unit
    answers: Answers
    numbers: int
    note: str
    seconds: float


@dataclass(frozen=True)
class Donor:
    """A network whose upper layers a fine-tuning attacker starts from, the SHA-256 of its checkpoint, and its name."""

    network: Network
    sha256: str
    name: str = "the network itself"


@dataclass(frozen=True)
class Fleet:
    """All attackers on one network: the features and samples they learn from, and the folder of their answers.

    `config` names all attributes and attackers; `folds` are by kind of faces; `donors` by that and by attribute, and
    without one nothing is fine-tuned.
    """

    features: Features
    faces: LabelledFaces
    folds: Folds
    donors: Mapping[tuple[str, str], Donor]
    config: AuditConfig
    device: torch.device
    folder: Path

    def units(self) -> list[Unit]:
        """All attacks, those that share a representation side by side."""
        return [
            Unit(tap, attribute, name, kind, faces, fold)
            for tap, shape in self.features.shapes.items()
            for faces, splits in self.folds.items()
            for fold in range(len(splits))
            for kind in KINDS[form_of(shape)]
            for attribute in self.config.attributes
            for name in self.config.attackers
            if kind in ATTACKERS[name].kinds
            and (kind != "centres" or self.features.sigma(tap))
            and (name != FineTuned.name or (faces, attribute) in self.donors)
        ]

    def site(self, tap: str) -> str:
        """Where in the network `tap` is: of what a channel bounds and sends, the tap that it sends."""
        return self.features.channel.at if releases_of(tap) or tap == CENTRE else tap

    def num_classes(self, attribute: str) -> int:
        return len(self.faces.schema.attribute(attribute).classes)

    def split(self, unit: Unit) -> AttackSplit:
        return self.folds[unit.faces][unit.fold]

    def donor(self, unit: Unit) -> Donor | None:
        return self.donors.get((unit.faces, unit.attribute))

    def seeds(self, unit: Unit) -> int:
        """How often a unit is fitted: on fresh faces once, as every fold is fitted anew."""
        return 1 if unit.faces == FRESH else self.config.seeds

    def represent(self, unit: Unit) -> Representation:
        """What the unit looks at, by the samples of its fold; principal components are kept beside the features."""
        kept = self.features.folder / "components"
        return represent(
            self.features, unit.tap, self.split(unit), unit.representation, self.config.components, kept=kept
        )

    def context(self, unit: Unit, labels: AttackLabels, seeds: Sequence[int]) -> AttackContext:
        donor = self.donor(unit)
        return AttackContext(
            labels.fitting, labels.tuning, self.num_classes(unit.attribute), self.site(unit.tap),
            donor.network if donor else None, tuple(seeds), self.device,
        )  # fmt: skip

    def file(self, unit: Unit, prefix: str = "", code: Sequence[ModuleType] = ()) -> Path:
        """Where a unit's answers are kept: a name that changes with all that they depend on.

        `code` are modules that they depend on beside `CODE` and the attacker's own.
        """
        donor = self.donor(unit)
        module = sys.modules[type(ATTACKERS[unit.attacker]).__module__]
        identity = {
            "features": asdict(self.features.key),
            "rows": self.split(unit).sha256,
            "seeds": self.seeds(unit),
            "components": self.config.components,
            "donor": donor.sha256 if donor else "",
            "code": code_digest([module, *CODE, *code]),
            "libraries": library_versions(),
        }
        fold = "" if unit.faces == TRAINING else f"{unit.faces}{unit.fold + 1}-"
        name = f"{prefix}{unit.attacker}-{unit.representation}-{fold}{digest(identity)[:12]}.npz"
        return self.folder / f"{unit.tap}-{unit.attribute}" / name


@dataclass(frozen=True)
class AttackResults:
    """A fleet's results, by unit in the fleet's order."""

    fleet: Fleet
    results: list[Result]


def attack(fleet: Fleet, ranks: Ranks, progress: Progress) -> AttackResults:
    """Read the answers that are there and compute the others; all ranks call it together, and all get the results."""
    found = agree.first(ranks, lambda: {unit: result for unit in fleet.units() if (result := _read(fleet, unit))})
    missing = [unit for unit in fleet.units() if unit not in found]
    missing.sort(key=lambda unit: unit.faces == FRESH)  # short ones last, so that ranks end together
    agree.each(ranks, lambda: _reduce(fleet, missing, ranks))
    progress("attacks", 0, 0)
    latest: dict[Unit, Representation] = {}

    def run(job: tuple[int, Unit]) -> tuple[Result, bool]:
        number, unit = job
        if (sight := replace(unit, attribute="", attacker="")) not in latest:
            latest.clear()  # before there is another one: each may take gigabytes
            latest[sight] = fleet.represent(sight)
        result = _run(fleet, unit, latest[sight])
        if ranks.with_first:  # at once, for what an interruption must not lose
            _write(fleet, result)
        progress(str(unit), number, len(missing))
        return result, ranks.with_first

    def keep(computed: Sequence[tuple[Result, bool]]) -> None:
        for result, kept in computed:
            if not kept:
                _write(fleet, result)

    jobs = list(enumerate(missing, 1))
    parts = [jobs]
    if ranks.local_world_size < ranks.world_size:  # what other machines have computed gets here tap by tap
        parts = [[job for job in jobs if job[1].tap == tap] for tap in dict.fromkeys(unit.tap for unit in missing)]
    with one_thread():
        for part in parts:
            computed = agree.shared(ranks, part, run)
            agree.first(ranks, partial(keep, computed))
            found |= {result.unit: result for result, _ in computed}
    return AttackResults(fleet, [found[unit] for unit in fleet.units()])


def _reduce(fleet: Fleet, units: Sequence[Unit], ranks: Ranks) -> None:
    """Write this rank's share of the principal components that its machine needs for `units`."""
    reduced = [unit for unit in units if unit.representation in REDUCED]
    files = {(unit.tap, unit.faces, unit.fold, unit.representation == "channels"): unit for unit in reduced}
    for unit in list(files.values())[ranks.local_rank :: ranks.local_world_size]:
        fleet.represent(unit)


def _run(fleet: Fleet, unit: Unit, representation: Representation) -> Result:
    split = fleet.split(unit)
    subset, labels = labelled_split(split, fleet.faces, unit.attribute)
    known = representation.of(subset, split)
    context = fleet.context(unit, labels, range(fleet.seeds(unit)))
    began = time.monotonic()
    answers = ATTACKERS[unit.attacker].attack(known, context)
    note, donor = representation.note, fleet.donor(unit)
    note += f"; starts from {donor.name}" if donor and unit.attacker == FineTuned.name else ""
    return Result(unit, answers, int(np.prod(known.shape)), note, time.monotonic() - began)


def _write(fleet: Fleet, result: Result) -> None:
    notes = {"numbers": result.numbers, "note": result.note, "seconds": round(result.seconds, 3)}
    write(fleet.file(result.unit), Stored(vars(result.answers), notes))


def _read(fleet: Fleet, unit: Unit) -> Result | None:
    stored = read(path := fleet.file(unit))
    if stored is None:
        return None
    _, labels = labelled_split(fleet.split(unit), fleet.faces, unit.attribute)
    classes = fleet.num_classes(unit.attribute)
    shapes = {name: (len(getattr(labels, name)), classes) for name in ("tuning", "testing")}  # by seed
    if {name: array.shape[1:] for name, array in stored.arrays.items()} != shapes or set(stored.notes) != NOTES:
        print(f"privatenet: {path}: holds other answers than were asked for, computed again", file=sys.stderr)
        return None
    return Result(unit, Answers(**stored.arrays), **stored.notes)
