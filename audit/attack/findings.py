"""What an audit found, as one file, audit.json: tables, figures, page and card are made from it alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, TypeAdapter

from privatenet.audit.certificate.rows import CertificateRow
from privatenet.audit.errors import AuditError
from privatenet.data_shards import records

VERSION: Final = 3

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value in (None, "NaN") else value)]
"""A figure that may be undefined: NaN, which JSON writes as null, or as text."""


@dataclass(frozen=True)
class Estimate:
    """A figure measured on test samples, with the interval that holds it at the protocol's confidence.

    `bound` is a lower bound that verdicts rest on: all those of one attribute hold together at that confidence (see
    measures.py). None for figures that no verdict looks at.
    """

    value: Number
    low: Number
    high: Number
    bound: float | None = None


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Attack:
    """One attacker on one representation of a tap, fitted `seeds` times, judged once, with the seed chosen by tuning.

    `faces` are those that it is fitted on, training or fresh; on fresh ones it is fitted `seeds` times for each fold,
    and `tuning` is the mean over folds.

    `tuning` is its cross-entropy on the tuning samples after calibration, in bits a label, by which it competes with
    the others: the lowest is the best (by accuracy a constant answer could win where classes are uneven). `spread` is
    the standard deviation of test accuracy over seeds. `excess` is accuracy above the majority class, paired by sample;
    `bits` the usable information, H(S) minus cross-entropy. `confusion` counts [true class, predicted class].
    """

    attacker: str
    representation: str
    faces: str
    numbers: int
    note: str
    seeds: int
    tuning: Number
    accuracy: Estimate
    excess: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    bits: Estimate
    spread: Number
    seconds: float
    confusion: tuple[tuple[int, ...], ...]


def chosen(attacks: Sequence[Attack]) -> dict[str, int]:
    """By kind of faces the place of the attack with the lowest tuning cross-entropy; undefined ones come last."""
    places: dict[str, int] = {}
    for place in sorted(range(len(attacks)), key=lambda at: (math.isnan(attacks[at].tuning), attacks[at].tuning)):
        places.setdefault(attacks[place].faces, place)
    return places


@dataclass(frozen=True)
class Leak:
    """What one tap of one network tells about one private attribute, by every attacker.

    Of each kind of faces the best attacker is chosen by tuning (`chosen`), and of these `best` is the one with the
    larger excess on the test samples. So the test samples choose one of two: where both tell nothing, the interval of
    the larger one lies above nothing up to twice as often as stated. The `bound`s of verdicts count both.

    `code_length` is the online code length of the fitting samples' labels under the best attacker, in bits a label (on
    fresh faces, of the first fold's), beside `entropy`, what they cost without looking. `change` is the best attacker's
    accuracy minus that on the reference network (the unprotected one), paired by sample, where there is one;
    `robustness` is the paper's relative form of it. `left` is its accuracy above the floor (the control target-label)
    as a share of what the best attacker reads above it of the reference's backbone, paired too; None where that is not
    surely above the floor, or unknown. `above` is that accuracy above the floor itself, paired; the `bound`s of one
    attribute's taps hold together.
    """

    tap: str
    attribute: str
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    majority: Number
    entropy: Number
    attacks: tuple[Attack, ...]
    best: int
    code_length: Estimate
    change: Estimate | None = None
    robustness: Number | None = None
    left: Estimate | None = None
    above: Estimate | None = None

    @property
    def headline(self) -> Attack:
        """The attack of the best attacker."""
        return self.attacks[self.best]

    @property
    def chosen(self) -> dict[str, int]:
        """The place of the best attack of each kind of faces."""
        return chosen(self.attacks)

    @property
    def samples(self) -> int:
        """Test samples that the figures rest on."""
        return sum(self.class_counts)


@dataclass(frozen=True)
class Control:
    """A figure to read the others by.

    `kind` is target-label (who sees only the true target label), or an adversary of the training run: image-adversary,
    unprotected-adversary, known-adversary or unknown-adversary; `tap` is empty where none is looked at.
    """

    kind: str
    tap: str
    attribute: str
    accuracy: Estimate
    balanced_accuracy: Estimate


@dataclass(frozen=True)
class NetworkFindings:
    """One network under attack. `role` is audited, unprotected or random (never trained).

    Where its channel is noisy, `utility` is the mean over so many `draws` of the noise; 1: there is none.
    """

    role: str
    stage: str
    checkpoint: str
    sha256: str
    target: str
    utility: Estimate
    utility_majority: Number
    draws: int
    objective: str
    lambda_: float | None
    protected: tuple[str, ...]
    affinity: str
    leaks: tuple[Leak, ...]
    curves: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """Training curves by metric: (epoch, value) pairs."""
    certificates: tuple[CertificateRow, ...] = ()
    """Of its label and, where its channel can be certified, of what that sends; of a network never trained none."""

    def leak(self, tap: str, attribute: str) -> Leak | None:
        return next((leak for leak in self.leaks if (leak.tap, leak.attribute) == (tap, attribute)), None)


@dataclass(frozen=True)
class Protocol:
    """How the figures came about. Sample counts are of the attackers' parts of the data."""

    faces: str
    fitting: int
    tuning: int
    testing: int
    seeds: int
    confidence: float
    resamples: int
    components: int
    precision: str
    device: str
    seconds: float
    peak_memory_gib: float


@dataclass(frozen=True)
class Findings:
    """A whole audit: `networks[0]` is the one that was asked about, references follow."""

    version: Literal[3]
    package: str
    created: str
    dataset: str
    fingerprint: str
    protocol: Protocol
    networks: tuple[NetworkFindings, ...]
    controls: tuple[Control, ...]
    config: dict[str, Any]

    @property
    def audited(self) -> NetworkFindings:
        return self.networks[0]

    def floor(self, attribute: str) -> Estimate | None:
        """How often who sees only the true target label names `attribute` right; None where that is unknown."""
        kinds = {(control.kind, control.attribute): control.accuracy for control in self.controls}
        return kinds.get(("target-label", attribute))

    def network(self, role: str) -> NetworkFindings | None:
        return next((network for network in self.networks if network.role == role), None)


_JSON = TypeAdapter(Findings)


def write_findings(findings: Findings, path: Path) -> None:
    """Write `path`, whole or not at all."""
    records.write(_JSON, findings, path)


def read_findings(path: Path) -> Findings:
    """The inverse of `write_findings`. Raises `AuditError` where the file is missing or no audit of this version."""
    return records.read(_JSON, path, f"audit of version {VERSION}", AuditError)
