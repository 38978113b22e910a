"""An audit, from a checkpoint to findings: features once, the whole fleet, then measures; references beside it.

What costs time is kept, under the run's folder or `cache`, for other audits and for going on: features/, answers/.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from privatenet.audit.attack.checks import check_config
from privatenet.audit.attack.controls import Floor, adversary_controls, target_label_floors
from privatenet.audit.attack.extract import NetworkExtractor, extract
from privatenet.audit.attack.features import network_tap
from privatenet.audit.attack.findings import Findings, Leak, NetworkFindings
from privatenet.audit.attack.fleet import AttackResults, Fleet, Progress, attack
from privatenet.audit.attack.judging import JudgedLeak, judge_leaks
from privatenet.audit.attack.networks import AuditedNetwork, audited_networks
from privatenet.audit.attack.protocol import describe_protocol, new_findings
from privatenet.audit.attack.relative import above_floor, relative_leaks
from privatenet.audit.attack.samples import Folds, attack_folds, training_split
from privatenet.audit.attack.utility import network_utility
from privatenet.audit.certificate.network import network_releases, people_of, sent_features
from privatenet.audit.certificate.rows import CertificateRow, certificate_rows
from privatenet.audit.settings import AuditConfig, CertifyConfig
from privatenet.distributed import agree
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import precision
from privatenet.distributed.ranks import Ranks


def audit(
    config: AuditConfig, source: Checkpoint, faces: Faces, engine: EngineConfig, ranks: Ranks, progress: Progress
) -> Findings:
    """Attack the network of `source`; all ranks call it together, share the work, and get the findings.

    Raises `AuditError` before anything is computed where the settings do not fit the network or the data set.
    """
    began = time.monotonic()
    config = check_config(config, source, faces)
    folds = attack_folds(config, faces)
    networks = audited_networks(config, source, ranks)
    root = Path(config.cache) if config.cache else source.folder.parent.parent
    extractors = {
        audited.role: NetworkExtractor(audited.network, audited.sha256, faces.fingerprint, engine, ranks)
        for audited in networks
    }
    attacked = {
        audited.role: _attack_network(audited, extractors[audited.role], config, faces, folds, ranks, root, progress)
        for audited in networks
    }
    sent = {
        audited.role: sent_features(extractors[audited.role], faces, ranks, root / "features")
        for audited in networks
        if audited.checkpoint
    }

    def certified(audited: AuditedNetwork) -> tuple[CertificateRow, ...]:
        if audited.checkpoint is None:
            return ()
        releases = network_releases(audited.network, sent[audited.role], config.releases)
        state = audited.checkpoint.state
        people = people_of(faces, config.attributes, state["schema"]["target"], state["identity"]["fingerprint"])
        return certificate_rows(releases, people, config.confidence, CertifyConfig.draws)[0]

    progress("measures", 0, 0)
    judged = {role: judge_leaks(results, ranks) for role, results in attacked.items()}

    def conclude() -> Findings:
        (split,) = training_split(faces)
        features = attacked[networks[0].role].fleet.features
        floors = target_label_floors(config, faces, split)
        described = _describe_networks(networks, attacked, judged, floors, config)
        known = adversary_controls(config, source, faces, networks[0].network, features)
        return new_findings(
            faces,
            describe_protocol(config, faces, folds, precision(engine, ranks.device), ranks, time.monotonic() - began),
            [
                replace(findings, certificates=certified(audited))
                for findings, audited in zip(described, networks, strict=True)
            ],
            [*(floor.control for floor in floors.values()), *known],
            source.state["config"],
        )

    return agree.first(ranks, conclude)


def _attack_network(
    audited: AuditedNetwork, extractor: NetworkExtractor, config: AuditConfig, faces: Faces, folds: Folds, ranks: Ranks,
    root: Path, progress: Progress,
) -> AttackResults:  # fmt: skip
    """Features of one network, and the whole fleet's answers about them; what is there already is not done again."""
    progress(f"{audited.role}: features", 0, 0)
    taps = [tap for tap in config.taps if network_tap(tap) in audited.network.taps]
    features = extract(extractor, taps, faces, ranks, root / "features")
    fleet = Fleet(features, faces, folds, audited.donors, config, ranks.device, root / "answers" / features.key.folder)
    return attack(fleet, ranks, lambda what, done, total: progress(f"{audited.role}: {what}", done, total))


def _describe_networks(
    networks: list[AuditedNetwork], attacked: Mapping[str, AttackResults], judged: Mapping[str, list[JudgedLeak]],
    floors: Mapping[str, Floor], config: AuditConfig,
) -> tuple[NetworkFindings, ...]:  # fmt: skip
    right = {attribute: floor.right for attribute, floor in floors.items()}
    leaks = {role: above_floor(each, right, config) for role, each in judged.items()}
    if "unprotected" in leaks:
        leaks["audited"] = relative_leaks(leaks["audited"], leaks["unprotected"], right, config)
    return tuple(
        _describe(audited, attacked[audited.role].fleet, [each.leak for each in leaks[audited.role]])
        for audited in networks
    )


def _describe(audited: AuditedNetwork, fleet: Fleet, leaks: list[Leak]) -> NetworkFindings:
    source = audited.checkpoint
    protect = source.state["config"]["protect"] if source and source.state["stage"] == "private" else None
    accuracy, majority = network_utility(fleet.features, fleet.faces, fleet.config.confidence)
    return NetworkFindings(
        role=audited.role,
        stage=source.state["stage"] if source else "untrained",
        checkpoint=str(source.folder) if source else "",
        sha256=audited.sha256,
        target=fleet.faces.schema.target,
        utility=accuracy,
        utility_majority=majority,
        draws=fleet.features.draws,
        objective=_objective(protect["terms"]) if protect else "",
        lambda_=protect["lambda"] if protect else None,
        protected=tuple(dict.fromkeys(term["at"] for term in protect["terms"])) if protect else (),
        affinity=audited.network.spec.affinity,
        leaks=tuple(leaks),
        curves=_curves(source.folder.parent / "metrics.jsonl") if source else {},
    )


def _objective(terms: Sequence[Mapping[str, Any]]) -> str:
    """The objectives of a private network in words: `confusion (alternating)`."""

    def words(term: Mapping[str, Any]) -> str:
        known = "alternating" if isinstance(term.get("known"), Mapping) else term.get("known", "")
        return f"{term['objective']} ({known})" if known else str(term["objective"])

    return ", ".join(dict.fromkeys(map(words, terms)))


def _curves(path: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
    curves: dict[str, list[tuple[float, ...]]] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for name, value in record.items():
                if name.startswith(("train/", "validation/")) and not name.endswith(("majority", "samples")):
                    curves.setdefault(name, []).append((record["epoch"], value))
    return {name: tuple(points) for name, points in curves.items()}
