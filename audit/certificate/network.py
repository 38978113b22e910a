"""What a trained network sends of faces that were used for nothing else, and what is certified of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from privatenet.audit.attack.checks import check_attributes, check_confidence, check_network, check_releases
from privatenet.audit.attack.extract import NetworkExtractor, extract
from privatenet.audit.attack.features import LOGITS, Features
from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.samples import LabelledFaces
from privatenet.audit.attack.utility import network_utility
from privatenet.audit.certificate.bound import MOST_NUMBERS
from privatenet.audit.certificate.rows import CertificateRow, People, Release, certificate_rows
from privatenet.audit.errors import AuditError
from privatenet.audit.settings import CertifyConfig
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed import agree
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.precision import precision
from privatenet.distributed.provenance import code_version
from privatenet.distributed.ranks import Ranks
from privatenet.distributed.stages.trained import load_network
from privatenet.models.channel import CENTRE, Channel
from privatenet.models.network import Network

PICTURES = 1024
"""Coded at once."""


@dataclass(frozen=True)
class Certificates:
    """certificate.json: of which network and data set, in which `precision` the network computed, in a line each why
    other rows are `missing`, and the utility on the same test split, where its target is labelled: the mean over so
    many `draws` of the noise, if there is any."""

    version: Literal[1]
    package: str
    created: str
    checkpoint: str
    sha256: str
    dataset: str
    fingerprint: str
    precision: str
    jointly: bool
    rows: tuple[CertificateRow, ...]
    missing: tuple[str, ...]
    utility: Estimate | None
    draws: int


def certify(
    config: CertifyConfig, source: Checkpoint, faces: Faces, engine: EngineConfig, ranks: Ranks
) -> Certificates:
    """Certify the network of `source` on the test split of `faces`; all ranks call it together, all get the rows.

    `faces` are the data set that it was trained on, or another one with the same classes of the private attributes.
    Raises `AuditError` where the settings do not fit, or nothing can be certified.
    """
    check_network(source)
    schema = Schema.from_dict(source.state["schema"])
    attributes = config.attributes or schema.private
    _check(config, attributes, schema, faces)
    network = load_network(source, ranks)
    reason = "" if config.deployment == "label" else split_reason(network)
    if config.deployment == "split" and reason:
        raise AuditError(f"{source.folder}: {reason}; accepted: --deployment label")
    extractor = NetworkExtractor(network, source.hash, faces.fingerprint, engine, ranks)
    features = sent_features(extractor, faces, ranks, source.folder.parent.parent / "features")
    releases = network_releases(network, features, config.releases)
    releases = [release for release in releases if config.deployment in ("", release.deployment)]
    people = people_of(faces, attributes, schema.target, source.state["identity"]["fingerprint"])
    rows, reasons = agree.first(
        ranks, lambda: certificate_rows(releases, people, config.confidence, config.draws, config.jointly)
    )
    target = faces.schema.attribute(faces.schema.target)
    utility = None
    if target == schema.attribute(schema.target) and people.targets is not None:
        utility = agree.first(ranks, lambda: network_utility(features, faces, config.confidence)[0])
    if not rows:
        raise AuditError(f"{source.folder}: nothing can be certified: {'; '.join(reasons)}")
    return Certificates(
        version=1,
        package=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=str(source.folder),
        sha256=source.hash,
        dataset=faces.schema.name,
        fingerprint=faces.fingerprint,
        precision=precision(engine, ranks.device),
        jointly=config.jointly,
        rows=rows,
        missing=((f"split: {reason}",) if reason else ()) + reasons,
        utility=utility,
        draws=features.draws,
    )


def split_reason(network: Network) -> str:
    """Why what the network sends in split use cannot be certified; empty where it can."""
    channel = network.spec.channel
    if not channel.sends:
        return (
            "the network has no channel, so that split use sends thousands of numbers without noise, "
            "of which the bound would be 100 %"
        )
    if channel.kind == "plain":
        return "the channel sends numbers without noise, which tell any two pictures apart: the bound would be 100 %"
    numbers = int(np.prod(network.tap_shapes[CENTRE]))
    if channel.kind == "noise" and numbers > MOST_NUMBERS:
        return (
            f"the channel sends {numbers:,} noisy numbers of {channel.at}, and the bound would be 100 % "
            f"of more than {MOST_NUMBERS}"
        )
    return ""


def sent_features(extractor: NetworkExtractor, faces: Faces, ranks: Ranks, root: Path) -> Features:
    """What certificates of a network rest on, of the test split: its logits and, where that can be certified, what its
    channel sends; all ranks call it together. Kept in `root`."""
    taps = [] if split_reason(extractor.network) else [CENTRE]
    return extract(extractor, taps, faces, ranks, root, splits=("test",))


def network_releases(network: Network, features: Features, counts: Sequence[int]) -> list[Release]:
    """What the network sends of every test picture, in split use where that can be certified (of a noisy channel once
    or as often as `counts`), and as its label alone: what one draw of the noise makes of it."""
    channel, releases = network.spec.channel, []
    if CENTRE in features.shapes:
        centres = features.array("test", CENTRE)
        if channel.kind == "noise":
            flat = centres.reshape(len(centres), -1)
            releases += [Release("split", flat, channel.sigma, count) for count in counts]
        else:
            releases.append(Release("split", _codes(network.channel, centres)))
    return [*releases, Release("label", features.array("test", LOGITS).argmax(axis=1))]


def people_of(faces: LabelledFaces, attributes: Sequence[str], target: str, fingerprint: str) -> People:
    """Labels and persons of the test split, for a network that names `target`. Persons are compared with those of the
    training split, where that is of the data set that the network was trained on, which has this `fingerprint`."""
    test, schema = faces.test, faces.schema
    columns = dict(zip(schema.names, test.labels.T, strict=True))
    fresh = np.ones(len(test), dtype=np.bool_)
    if fingerprint == faces.fingerprint and test.persons is not None:
        trained = faces.train.persons if faces.train.persons is not None else np.array([], dtype=np.int64)
        fresh = ~((test.persons >= 0) & np.isin(test.persons, trained))
    targets = columns[schema.target] if schema.target == target else None
    return People({name: columns[name] for name in attributes}, targets, test.persons, fresh)


def _codes(channel: Channel, centres: np.ndarray) -> np.ndarray:
    """Which of the vectors that `channel` sends each picture has, int64 [N]."""
    with torch.no_grad():
        chunks = [torch.from_numpy(centres[row : row + PICTURES].copy()) for row in range(0, len(centres), PICTURES)]
        vectors = torch.cat([channel(chunk).flatten(1) for chunk in chunks]).numpy()
    codes: np.ndarray = np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1)
    return codes


def _check(config: CertifyConfig, attributes: Sequence[str], schema: Schema, faces: Faces) -> None:
    """`schema` is that of the data set which the network was trained on."""
    check_attributes(attributes, schema)
    if config.deployment == "enclave":
        raise AuditError(
            "deployment: in an enclave an adversary reads thousands of features before any noise, of which the bound "
            "would be 100 %; accepted: split, label"
        )
    if config.deployment not in ("", "split", "label"):
        raise AuditError(f"deployment: {config.deployment!r} is unknown; accepted: split, label")
    check_releases(config.releases)
    check_confidence(config.confidence)
    if config.draws < 1000:
        raise AuditError(f"draws is {config.draws}: accepted are numbers of at least 1000")
    for name in attributes:
        classes = schema.attribute(name).classes
        if name not in faces.schema.names or faces.schema.attribute(name).classes != classes:
            raise AuditError(
                f"{faces.config.shards}: has no attribute {name} of the classes {', '.join(classes)}, "
                f"as the data set that the network was trained on; choose others by --attributes"
            )
