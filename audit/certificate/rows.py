"""A network's certificates, a row for every private attribute and release: from arrays alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from privatenet.audit.certificate.bound import Certificate, certify_codes, certify_gaussian, code_accuracy
from privatenet.audit.errors import AuditError
from privatenet.audit.people import Indices

SEED = 20_261
"""Of the draws that an estimate rests on."""

Deployment = Literal["split", "label"]
"""What an adversary reads: what the channel sends, or the predicted label alone."""


@dataclass(frozen=True)
class Release:
    """What is sent of N pictures: codes, int64 [N], or where `sigma` is above 0 the mean of `count` vectors, each with
    its own noise, around centres [N, d]."""

    deployment: Deployment
    values: npt.NDArray[np.generic]
    sigma: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class People:
    """Who is in N pictures: labels, int64 [N], -1 where unknown, by private attribute; the target's labels, alike, None
    where there are none; `persons` as in a split; and bool [N], False where a stage has learnt from the person."""

    labels: Mapping[str, Indices]
    targets: Indices | None
    persons: Indices | None
    fresh: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CertificateRow:
    """What is certified of one attribute and release.

    Args:
        attribute: The private attribute.
        deployment: split (what the channel sends) or label (the predicted label alone).
        floor: Accuracy of the best guess from the true target label, on those of the pictures that have one, each
            person alike in weight; None where none has.
        left_out: Pictures whose label is unknown, or of a person whom a stage has learnt from.
        certificate: The bound, and what it rests on.
    """

    attribute: str
    deployment: Deployment
    floor: float | None
    left_out: int
    certificate: Certificate


def certificate_rows(
    releases: Sequence[Release], people: People, confidence: float, draws: int, jointly: bool = False
) -> tuple[tuple[CertificateRow, ...], tuple[str, ...]]:
    """A row for every attribute and release, and in one line each why others are missing.

    Each bound holds with `confidence`, or `jointly` all together, two for each row (Bonferroni).
    """
    count = 2 * len(releases) * len(people.labels) if jointly else 1
    confidence = 1 - (1 - confidence) / count
    rows: list[CertificateRow] = []
    reasons = []
    for attribute in people.labels:
        try:
            rows += _attribute_rows(attribute, releases, people, confidence, draws)
        except AuditError as error:
            reasons.append(f"{attribute}: {error}")
    return tuple(rows), tuple(reasons)


def _attribute_rows(
    attribute: str, releases: Sequence[Release], people: People, confidence: float, draws: int
) -> Iterator[CertificateRow]:
    chosen = people.fresh & (people.labels[attribute] >= 0)
    labels, persons = people.labels[attribute][chosen], None if people.persons is None else people.persons[chosen]
    floor = _floor(attribute, people, chosen)
    for release in releases:
        values = release.values[chosen]
        if release.sigma:
            centres, count = values.astype(np.float64), release.count
            certificate = certify_gaussian(centres, release.sigma, labels, persons, confidence, draws, SEED, count)
        else:
            certificate = certify_codes(values.astype(np.int64), labels, persons, confidence)
        yield CertificateRow(attribute, release.deployment, floor, int((~chosen).sum()), certificate)


def _floor(attribute: str, people: People, chosen: npt.NDArray[np.bool_]) -> float | None:
    """What the true target label alone gives away of the `chosen` pictures, where it is known."""
    if people.targets is None:
        return None
    labelled = chosen & (people.targets >= 0)
    persons = None if people.persons is None else people.persons[labelled]
    return (
        code_accuracy(people.targets[labelled], people.labels[attribute][labelled], persons) if labelled.any() else None
    )
