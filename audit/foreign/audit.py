"""An audit of what is not ours: of any network on sharded faces, or of features that were made elsewhere.

The same attackers, measures and findings as of our own networks; what only our training knows, such as the unprotected
network, adversaries and upper layers to fine-tune, is missing.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from privatenet.audit.attack.checks import check_every_tap_is_attacked, check_settings
from privatenet.audit.attack.controls import target_label_floors
from privatenet.audit.attack.extract import Extractor, extract
from privatenet.audit.attack.features import LOGITS, Features
from privatenet.audit.attack.findings import UNKNOWN, Findings, NetworkFindings
from privatenet.audit.attack.fleet import AttackResults, Fleet, Progress, attack
from privatenet.audit.attack.judging import judge_leaks
from privatenet.audit.attack.protocol import describe_protocol, new_findings
from privatenet.audit.attack.relative import above_floor
from privatenet.audit.attack.representations import KINDS, form_of
from privatenet.audit.attack.samples import Folds, LabelledFaces, attack_folds, training_split
from privatenet.audit.attack.utility import network_utility
from privatenet.audit.certificate.network import people_of
from privatenet.audit.certificate.rows import CertificateRow, Release, certificate_rows
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.arrays import ArrayFaces, keep, read_arrays
from privatenet.audit.report.card import write_card
from privatenet.audit.report.page import write_report
from privatenet.audit.settings import AuditConfig, CertifyConfig
from privatenet.distributed import agree
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class AuditedFeatures(Findings):
    """The findings of `audit_features`."""

    def to_frame(self) -> "DataFrame":
        """A row for each tap and attribute: how often the best attacker is right, in [0, 1] with its interval, and how
        far that is above the majority class."""
        from pandas import DataFrame

        return DataFrame(
            {
                "tap": leak.tap,
                "attribute": leak.attribute,
                "attacker": leak.headline.attacker,
                "accuracy": leak.headline.accuracy.value,
                "low": leak.headline.accuracy.low,
                "high": leak.headline.accuracy.high,
                "majority": leak.majority,
                "excess": leak.headline.excess.value,
                "bits": leak.headline.bits.value,
                "samples": leak.samples,
            }
            for leak in self.audited.leaks
        )

    def report(self, folder: Path | str) -> Path:
        """Write the page, figures and model card into `folder`; returns the page."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_report(self, folder)
        write_card(self, folder / "model_card.md")
        return folder / "report.html"


def audit_features(
    arrays: Path | str | Mapping[str, npt.ArrayLike],
    target: str = "",
    config: AuditConfig | None = None,
    ranks: Ranks = ALONE,
) -> AuditedFeatures:
    """What the best attackers read of features that were made elsewhere.

    `arrays` is a file .npz or arrays by name: `train/TAP`, `test/TAP`, `train/labels/ATTRIBUTE`, ... (see arrays.py).
    `target` is the attribute that the network is for, which is not private. `config` chooses attackers, seeds and so
    on; answers are kept in its `cache`, if it names one. Raises `AuditError` for what cannot be used.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = {split: rng.integers(0, 2, 200) for split in ("train", "test")}
    >>> arrays = {f"{split}/labels/gender": values for split, values in labels.items()}
    >>> arrays |= {f"{split}/pool": rng.normal(size=(200, 4)) + 9 * values[:, None] for split, values in labels.items()}
    >>> findings = audit_features(arrays, config=AuditConfig(attackers=["logistic"], faces=["training"], seeds=1))
    >>> findings.audited.leaks[0].headline.accuracy.value
    1.0
    """
    faces = read_arrays(Path(arrays) if isinstance(arrays, str) else arrays, target, ranks)
    config = config or AuditConfig()
    name = str(arrays) if isinstance(arrays, str | Path) else "arrays"
    with tempfile.TemporaryDirectory() as folder:
        return audit_arrays(faces, name, config, ranks, Path(config.cache or folder))


def audit_arrays(
    faces: ArrayFaces, name: str, config: AuditConfig, ranks: Ranks, root: Path,
    progress: Progress = lambda what, done, total: None,
) -> AuditedFeatures:  # fmt: skip
    """`audit_features` of arrays that were read, called `name`; all ranks call it together. Answers stay in `root`."""
    config = check_settings(config, faces.schema)
    features = agree.each(ranks, lambda: keep(faces, root / "features"))
    if unknown := [tap for tap in config.taps if tap not in features.shapes]:
        raise AuditError(f"taps: there are no features of {', '.join(unknown)}: accepted are {list(features.shapes)}")
    chosen = config.taps or [tap for tap in features.shapes if tap != LOGITS]
    answers = [LOGITS] if LOGITS in features.shapes else []
    features = replace(features, shapes={tap: features.shapes[tap] for tap in (*chosen, *answers)})
    findings = _audit({"audited": _Subject(name, features)}, config, faces, ranks, root, progress, {})
    return AuditedFeatures(**vars(findings))


def audit_network(
    extractors: Mapping[str, Extractor], name: str, config: AuditConfig, faces: Faces, ranks: Ranks, root: Path,
    progress: Progress, settings: dict[str, Any],
) -> Findings:  # fmt: skip
    """Attack any network, of which `extractors` by role, audited and perhaps random, give features of `faces`.

    All ranks call it together. `name` and `settings` say which network it is. Raises `AuditError` where `config` does
    not fit.
    """
    config = check_settings(config, faces.schema)
    subjects = {}
    for role, extractor in extractors.items():
        progress(f"{role}: features", 0, 0)
        taps = [tap for tap in extractor.shapes if tap != LOGITS]
        subjects[role] = _Subject(name, extract(extractor, taps, faces, ranks, root / "features"))
    return _audit(subjects, config, faces, ranks, root, progress, settings)


@dataclass(frozen=True)
class _Subject:
    """What is attacked: its name, and its features at every tap."""

    name: str
    features: Features


def _audit(
    subjects: Mapping[str, _Subject], config: AuditConfig, faces: LabelledFaces, ranks: Ranks, root: Path,
    progress: Progress, settings: dict[str, Any],
) -> Findings:  # fmt: skip
    began = time.monotonic()
    folds = attack_folds(config, faces)
    attacked = {
        role: _attack(role, each, config, faces, folds, ranks, root, progress) for role, each in subjects.items()
    }

    progress("measures", 0, 0)
    judged = {role: judge_leaks(results, ranks) for role, results in attacked.items()}

    def conclude() -> Findings:
        (split,) = training_split(faces)
        floors = target_label_floors(config, faces, split)
        right = {attribute: floor.right for attribute, floor in floors.items()}
        networks = []
        for role, results in attacked.items():
            leaks = above_floor(judged[role], right, config)
            networks.append(_describe(role, subjects[role], results.fleet, tuple(leak.leak for leak in leaks)))
        protocol = describe_protocol(config, faces, folds, "fp32", ranks, time.monotonic() - began)
        return new_findings(faces, protocol, networks, [floor.control for floor in floors.values()], settings)

    return agree.first(ranks, conclude)


def _attack(
    role: str, subject: _Subject, config: AuditConfig, faces: LabelledFaces, folds: Folds, ranks: Ranks, root: Path,
    progress: Progress,
) -> AttackResults:  # fmt: skip
    features = subject.features
    check_every_tap_is_attacked(
        {tap: KINDS[form_of(shape)] for tap, shape in features.shapes.items()}, config.attackers
    )
    fleet = Fleet(features, faces, folds, {}, config, ranks.device, root / "answers" / features.key.folder)
    return attack(fleet, ranks, lambda what, done, total: progress(f"{role}: {what}", done, total))


def _describe(role: str, subject: _Subject, fleet: Fleet, leaks: tuple[Any, ...]) -> NetworkFindings:
    features, faces, config = subject.features, fleet.faces, fleet.config
    utility, majority = UNKNOWN, float("nan")
    certificates: tuple[CertificateRow, ...] = ()
    if LOGITS in features.shapes:
        utility, majority = network_utility(features, faces, config.confidence)
        label = Release("label", features.array("test", LOGITS).argmax(axis=1))
        people = people_of(faces, config.attributes, faces.schema.target, faces.fingerprint)
        certificates = certificate_rows([label], people, config.confidence, CertifyConfig.draws)[0]
    return NetworkFindings(
        role=role,
        stage="" if role == "audited" else "untrained",
        checkpoint=subject.name,
        sha256=features.key.network,
        target=faces.schema.target,
        utility=utility,
        utility_majority=majority,
        draws=1,
        objective="",
        lambda_=None,
        protected=(),
        affinity="",
        leaks=leaks,
        certificates=certificates,
    )
