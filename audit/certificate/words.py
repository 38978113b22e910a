"""A certificate in one sentence."""

import math

from privatenet.audit.certificate.bound import Certificate
from privatenet.audit.report.text import percent


def sentence(certificate: Certificate, attribute: str, split: str) -> str:
    """What is certified of `attribute`, and on which grounds; the bound is rounded up, so that the sentence holds."""
    if certificate.bound < 1:
        bound = percent(math.ceil(1000 * certificate.bound - 1e-9) / 1000)
        claim = f"No adversary whatever names {attribute} right more often than {bound} %"
    else:
        claim = f"How often an adversary names {attribute} right cannot be bounded"
    thing = "code" if certificate.channel == "codes" else "release"
    releases = f"one {thing}" if certificate.releases == 1 else f"{certificate.releases:,} {thing}s of one picture"
    return (
        f"{claim} ({100 * certificate.confidence:g} % confidence; {releases}; {_sample(certificate, split)}; "
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
