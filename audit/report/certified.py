"""Certificates as a table and in sentences: what any adversary reads at most, beside what attackers did read."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from privatenet.audit.attack.features import LABEL, SEVERAL
from privatenet.audit.attack.findings import Findings
from privatenet.audit.certificate.network import Certificates
from privatenet.audit.certificate.rows import CertificateRow
from privatenet.audit.certificate.words import at_most, row_sentence
from privatenet.audit.report.tables import Cell, Table, markdown_table
from privatenet.audit.report.text import DASH, interval, markdown, over_draws, percent, with_interval
from privatenet.models.channel import RELEASE

FEWEST = 10
"""People of a class; the balanced bound is not shown where one has fewer."""


def certificates_table(rows: tuple[CertificateRow, ...], findings: Findings | None = None) -> Table:
    """Every row's bound beside floor and majority, and in an audit's `findings` what the best attacker read of it."""
    cells = []
    for index, row in enumerate(rows):
        certificate, where = row.certificate, f"certificates.{index}"
        releases = f"{row.deployment}, {certificate.releases}" if certificate.releases > 1 else row.deployment
        cells.append(
            (
                Cell(row.attribute),
                Cell(releases),
                Cell(percent(certificate.majority), value=certificate.majority, where=f"{where}.certificate.majority"),
                Cell(DASH) if row.floor is None else Cell(percent(row.floor), value=row.floor, where=f"{where}.floor"),
                *([_best(row, findings)] if findings else []),
                Cell(at_most(certificate.bound), value=certificate.bound, where=f"{where}.certificate.bound"),
                Cell(at_most(certificate.balanced), value=certificate.balanced, where=f"{where}.certificate.balanced")
                if certificate.fewest >= FEWEST
                else Cell(DASH),
                Cell(f"{certificate.people:,}", value=certificate.people, where=f"{where}.certificate.people"),
                Cell(f"{certificate.pictures:,}", value=certificate.pictures, where=f"{where}.certificate.pictures"),
                Cell(f"{row.left_out:,}", value=row.left_out, where=f"{where}.left_out"),
            )
        )
    best = ("best attacker %",) if findings else ()
    columns = ("majority %", "floor %", *best, "at most %", "balanced %", "people", "pictures", "left out")
    confidence = f", each with {100 * rows[0].certificate.confidence:.4g} % confidence" if rows else ""
    caption = f"Certified: what any adversary reads at most{confidence}"
    return Table(caption, ("attribute", "deployment", *columns), tuple(cells), headers=2)


def certificate_sentences(rows: tuple[CertificateRow, ...]) -> list[str]:
    """One for each attribute, on its first row: one release in split use, where that is certified."""
    first = {row.attribute: row for row in reversed(rows)}
    return [row_sentence(row) for row in rows if row is first[row.attribute]]


def certificate_markdown(findings: Findings) -> list[str]:
    """Sentences, then the table, in Markdown."""
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in certificate_sentences(findings.certificates))
    table = certificates_table(findings.certificates, findings)
    return [sentences, f"**{markdown(table.caption)}**", markdown_table(table)]


def print_certificates(certificates: Certificates) -> None:
    """Print utility, table and sentences; fits 80 columns."""
    rows, utility = certificates.rows, certificates.utility
    table = certificates_table(rows)
    console = Console(width=max(80, Console().width))
    printed = RichTable(box=SIMPLE_HEAD, padding=0, collapse_padding=True, caption=table.caption)
    for place, column in enumerate(table.columns):
        printed.add_column(column.removesuffix(" %"), justify="right" if table.numeric(place) else "left")
    for row in table.rows:
        printed.add_row(*(Text(str(cell)) for cell in row))
    if utility is not None:
        noise = f", {words}" if (words := over_draws(certificates.draws)) else ""
        console.print(Text(f"utility {with_interval(utility, percent, ' %')}{noise}"))
    console.print(printed)
    for sentence in certificate_sentences(rows):
        console.print(Text(f"- {sentence}"))


def _best(row: CertificateRow, findings: Findings) -> Cell:
    """The best attacker's accuracy on what the row certifies."""
    releases = row.certificate.releases
    split = RELEASE if releases == 1 else f"{RELEASE}{SEVERAL}{releases}"
    tap = split if row.deployment == "split" else LABEL
    for place, leak in enumerate(findings.audited.leaks):
        if (leak.tap, leak.attribute) == (tap, row.attribute):
            accuracy, where = leak.headline.accuracy, f"networks.0.leaks.{place}.attacks.{leak.best}.accuracy"
            ends = interval(accuracy)
            return Cell(percent(accuracy.value), "" if ends == DASH else ends, accuracy, where)
    return Cell(DASH)
