"""A certificate in one sentence."""

import math

from privatenet.audit.certificate.bound import Certificate
from privatenet.audit.certificate.rows import CertificateRow
from privatenet.audit.report.text import percent


def row_sentence(row: CertificateRow) -> str:
    """`sentence` of a row, which rests on the test split."""
    thing = "predicted label" if row.deployment == "label" else ""
    return sentence(row.certificate, row.attribute, "test", thing)


def at_most(bound: float) -> str:
    """A bound in percent, rounded up, so that it still holds."""
    return percent(math.ceil(1000 * bound - 1e-9) / 1000)


def sentence(certificate: Certificate, attribute: str, split: str, thing: str = "") -> str:
    """What is certified of `attribute`, and on which grounds; `thing` is what is sent, a code or release if empty."""
    if certificate.bound < 1:
        claim = f"No adversary whatever names {attribute} right more often than {at_most(certificate.bound)} %"
    else:
        claim = f"How often an adversary names {attribute} right cannot be bounded"
    thing = thing or ("code" if certificate.channel == "codes" else "release")
    releases = f"one {thing}" if certificate.releases == 1 else f"{certificate.releases:,} {thing}s of one picture"
    return (
        f"{claim} ({100 * certificate.confidence:.4g} % confidence; {releases}; {_sample(certificate, split)}; "
        f"always the commonest class: {percent(certificate.majority)} %)."
    )


def _sample(certificate: Certificate, split: str) -> str:
    pictures = f"{certificate.pictures:,} pictures"
    if certificate.unidentified == certificate.pictures:
        return f"{pictures} of the {split} split, taken for as many people: it holds only if no two are of one person"
    people = f"{certificate.people:,} people of the {split} split, all alike in weight, with {pictures}"
    if certificate.unidentified:
        people += f", {certificate.unidentified:,} of unknown persons taken for people of their own"
    return people
