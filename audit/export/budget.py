"""What a trusted budget buys: for every way to cut a network, the memory of the trusted part, and what is still read.

The more of a network is trusted, the less an onlooker sees of it, and the more memory the enclave or device needs.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privatenet.audit.attack.features import LABEL
from privatenet.audit.attack.findings import Estimate, Findings
from privatenet.data_shards.files import writing
from privatenet.models.channel import CENTRE, RELEASE
from privatenet.models.network import Network
from privatenet.models.parts import PICTURES, Normalisation, Part, cost, parts

COLUMNS = (
    "network", "deployment", "tap", "fp32_mb", "int8_mb", "utility", "attribute", "floor", "read", "read_low",
    "read_high", "certified",
)  # fmt: skip


@dataclass(frozen=True)
class BudgetRow:
    """A cut of a network: `tap` is what an onlooker sees, the label alone where all of the network is trusted.

    Memory of the trusted part in MB, for one picture, in single precision and in int8. `read` is the best attacker's
    accuracy there, `certified` what nobody exceeds; None where no audit says it.
    """

    network: str
    deployment: str
    tap: str
    fp32_mb: float
    int8_mb: float
    utility: Estimate | None = None
    attribute: str = ""
    floor: float | None = None
    read: Estimate | None = None
    certified: float | None = None


def budget(name: str, network: Network, findings: Findings | None) -> list[BudgetRow]:
    """Every cut of a network, with what its audit has found there: a row for each private attribute."""
    rows = []
    for deployment, tap, trusted in _cuts(network):
        taken = cost(trusted, _input(trusted, tap, network), network.tap_shapes.get(RELEASE, ()))
        plain = BudgetRow(name, deployment, tap, taken.bytes(4) / 1e6, taken.bytes(1) / 1e6)
        rows += list(_beside(plain, findings)) if findings else [plain]
    return rows


def write_budget(rows: Sequence[BudgetRow], path: Path) -> None:
    """Write rows as CSV, with what is unknown left empty."""
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            read = (row.read.value, row.read.low, row.read.high) if row.read else (None, None, None)
            utility = row.utility.value if row.utility else None
            figures = (row.fp32_mb, row.int8_mb, utility, row.attribute, row.floor, *read, row.certified)
            values = (row.network, row.deployment, row.tap, *figures)
            writer.writerow([f"{value:.4g}" if isinstance(value, float) else value for value in values])


def _cuts(network: Network) -> Iterator[tuple[str, str, Part]]:
    """Deployment, what an onlooker sees, and the trusted part, from little of the network to all."""
    normalisation = Normalisation([0.0], [1.0])  # costs the same whatever it is
    for tap in reversed([tap for tap in network.taps if tap not in (CENTRE, RELEASE)]):
        _, trusted = parts(network, "enclave", normalisation, tap)
        yield "enclave", tap, trusted
    if network.spec.channel.sends:
        trusted, _ = parts(network, "split", normalisation)
        yield "split", RELEASE, trusted
    (whole,) = parts(network, "whole", normalisation)
    yield "whole", LABEL, whole


def _beside(row: BudgetRow, findings: Findings) -> Iterator[BudgetRow]:
    audited = findings.audited
    for attribute in dict.fromkeys(leak.attribute for leak in audited.leaks):
        leak, floor = audited.leak(row.tap, attribute), findings.floor(attribute)
        bounds = [
            each.certificate.bound
            for each in audited.certificates
            if each.attribute == attribute
            and each.certificate.releases == 1
            and each.deployment == {RELEASE: "split", LABEL: "label"}.get(row.tap)
        ]
        yield BudgetRow(
            row.network, row.deployment, row.tap, row.fp32_mb, row.int8_mb, audited.utility, attribute,
            floor.value if floor else None, leak.headline.accuracy if leak else None, bounds[0] if bounds else None,
        )  # fmt: skip


def _input(part: Part, tap: str, network: Network) -> Sequence[int]:
    """The shape of what a part takes of one picture."""
    size = network.spec.image_size
    return (3, size, size) if part.inputs[0] == PICTURES else network.tap_shapes[tap]
