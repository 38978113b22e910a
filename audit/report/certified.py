"""Certificates as a table and in sentences: what any adversary reads at most, beside what attackers did read."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from privatenet.audit.attack.features import LABEL, SEVERAL
from privatenet.audit.attack.findings import Findings, Leak, NetworkFindings
from privatenet.audit.certificate.network import Certificates
from privatenet.audit.certificate.rows import CertificateRow
from privatenet.audit.certificate.words import at_most, row_sentence
from privatenet.audit.report.cells import Cell, Table, markdown_table
from privatenet.audit.report.text import DASH, deployment, interval, markdown, over_draws, percent, with_interval
from privatenet.models.channel import RELEASE

COLUMNS = ("majority %", "floor %", "at most %", "balanced %", "people", "left out")
FEWEST = 10
"""People of a class; the balanced bound is not shown where one has fewer."""


def certificates_table(rows: tuple[CertificateRow, ...]) -> Table:
    """Every row's bound beside floor and majority."""
    cells = [(Cell(row.attribute), Cell(_deployment(row)), *_bound(row, "rows")) for row in rows]
    return _table(("attribute", "deployment", *COLUMNS), cells, 2, rows)


def audit_certificates_table(findings: Findings) -> Table:
    """The rows of every network, by attribute, each with what the best attacker read of the same."""
    cells = []
    for place, network in enumerate(findings.networks):
        name = {"audited": "this network"}.get(network.role, network.role)
        for index, row in enumerate(network.certificates):
            bound = list(_bound(row, f"networks.{place}.certificates.{index}"))
            bound.insert(COLUMNS.index("at most %"), _best(row, network, f"networks.{place}"))
            cells.append((Cell(row.attribute), Cell(name), Cell(_deployment(row)), *bound))
    columns = list(COLUMNS)
    columns.insert(COLUMNS.index("at most %"), "best attacker %")
    attributes = list(dict.fromkeys(row[0].text for row in cells))
    cells.sort(key=lambda row: attributes.index(row[0].text))
    return _table(("attribute", "network", "deployment", *columns), cells, 3, findings.audited.certificates)


def certificate_sentences(rows: tuple[CertificateRow, ...]) -> list[str]:
    """One for each attribute, on its first row: one release in split use, where that is certified."""
    first = {row.attribute: row for row in reversed(rows)}
    return [row_sentence(row) for row in rows if row is first[row.attribute]]


def certificate_markdown(findings: Findings) -> list[str]:
    """Sentences, then the table, in Markdown."""
    rows = findings.audited.certificates
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in certificate_sentences(rows))
    table = audit_certificates_table(findings)
    return [sentences, f"**{markdown(table.caption)}**", markdown_table(table)]


def print_certificates(certificates: Certificates) -> None:
    """Print utility, table and sentences; fits 80 columns."""
    rows, utility = certificates.rows, certificates.utility
    table = certificates_table(rows)
    console = Console(width=max(80, Console().width))
    printed = RichTable(box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for place, column in enumerate(table.columns):
        printed.add_column(column.removesuffix(" %"), justify="right" if table.numeric(place) else "left")
    for row in table.rows:
        printed.add_row(*(Text(str(cell)) for cell in row))
    if utility is not None:
        noise = f", {words}" if (words := over_draws(certificates.draws)) else ""
        console.print(Text(f"utility {with_interval(utility, percent, ' %')}{noise}"))
    console.print(Text(table.caption))
    console.print(printed)
    for sentence in certificate_sentences(rows):
        console.print(Text(f"- {sentence}"))


def certificate_of(network: NetworkFindings, leak: Leak) -> CertificateRow | None:
    """What is certified of just what is read in `leak`, a leak of `network`."""
    rows = (row for row in network.certificates if (_tap(row), row.attribute) == (leak.tap, leak.attribute))
    return next(rows, None)


def _table(
    columns: tuple[str, ...], cells: Sequence[tuple[Cell, ...]], headers: int, rows: Sequence[CertificateRow]
) -> Table:
    confidence = f", each with {100 * rows[0].certificate.confidence:.4g} % confidence" if rows else ""
    return Table(f"Certified: what any adversary reads at most{confidence}", columns, tuple(cells), headers)


def _bound(row: CertificateRow, where: str) -> tuple[Cell, ...]:
    """The cells of `COLUMNS`; `where` is the row's own place."""
    certificate, at = row.certificate, f"{where}.certificate"
    return (
        Cell(percent(certificate.majority), value=certificate.majority, where=f"{at}.majority"),
        Cell(DASH) if row.floor is None else Cell(percent(row.floor), value=row.floor, where=f"{where}.floor"),
        Cell(at_most(certificate.bound), value=certificate.bound, where=f"{at}.bound"),
        Cell(at_most(certificate.balanced), value=certificate.balanced, where=f"{at}.balanced")
        if certificate.fewest >= FEWEST
        else Cell(DASH),
        Cell(f"{certificate.people:,}", value=certificate.people, where=f"{at}.people"),
        Cell(f"{row.left_out:,}", value=row.left_out, where=f"{where}.left_out"),
    )


def _deployment(row: CertificateRow) -> str:
    return deployment(_tap(row))


def _tap(row: CertificateRow) -> str:
    """The tap of an audit that holds what the row certifies."""
    if row.deployment == "label":
        return LABEL
    releases = row.certificate.releases
    return RELEASE if releases == 1 else f"{RELEASE}{SEVERAL}{releases}"


def _best(row: CertificateRow, network: NetworkFindings, where: str) -> Cell:
    """The best attacker's accuracy on what the row certifies; `where` is the network's place."""
    for place, leak in enumerate(network.leaks):
        if (leak.tap, leak.attribute) == (_tap(row), row.attribute):
            accuracy, at = leak.headline.accuracy, f"{where}.leaks.{place}.attacks.{leak.best}.accuracy"
            ends = interval(accuracy)
            return Cell(percent(accuracy.value), "" if ends == DASH else ends, accuracy, at)
    return Cell(DASH)
