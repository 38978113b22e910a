"""An audit's findings on the terminal: utility, then for each private attribute who reads how much, then verdicts."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from privatenet.audit.attack.findings import Findings, Leak, NetworkFindings
from privatenet.audit.certificate.words import at_most
from privatenet.audit.report.certified import certificate_of
from privatenet.audit.report.text import DASH, deployment, interval, over_draws, percent, whole
from privatenet.audit.report.verdict import in_full, verdicts

KNOWN = {"unprotected": "unprotected-adversary", "audited": "known-adversary"}
"""The control that a network's known adversary is, by the network's role."""
ENCLAVE = "enclave"


def print_summary(findings: Findings, console: Console | None = None) -> None:
    """Print what a person needs first; fits 80 columns."""
    console = console or Console(width=max(80, Console().width))
    for network in findings.networks:
        if network.role != "random" and math.isfinite(network.utility.value):
            console.print(Text(_utility(network)))
    leaks = findings.audited.leaks
    for attribute in dict.fromkeys(leak.attribute for leak in leaks):
        console.print(_table([leak for leak in leaks if leak.attribute == attribute], findings))
    console.print(
        Text(
            "unpr.: the unprotected network; known: the adversary that was trained on it, or that this one was trained "
            "against; best: of the attackers, all new, by tuning; left: above the floor, of what is above it at the "
            "unprotected backbone; at most: any adversary whatever, with "
            f"{100 * findings.protocol.confidence:.3g} % confidence"
        )
    )
    for verdict in verdicts(findings):
        console.print(Text(f"- {in_full(verdict, findings)}"))


def _utility(network: NetworkFindings) -> str:
    name = {"audited": "this network"}.get(network.role, network.role)
    words = [interval(network.utility), over_draws(network.draws)]
    return f"{network.target}, {name}: {percent(network.utility.value)} % right ({'; '.join(filter(None, words))})"


def _table(leaks: list[Leak], findings: Findings) -> Table:
    """What is read of one attribute, by tap."""
    first = leaks[0]
    floor = _control("target-label", "", first.attribute, findings)
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
        title=Text(f"{first.attribute}, %: floor {floor}, majority {percent(first.majority)}"),
        title_justify="left",
    )
    table.add_column("reads", overflow="fold", min_width=9)
    for heading in ("unpr.\nknown", "unpr.\nbest", "\nknown", "this network\nbest (interval)", "\nleft", "at\nmost"):
        table.add_column(heading, justify="right", no_wrap=True)
    unprotected = findings.network("unprotected")
    for leak in leaks:
        accuracy = leak.headline.accuracy
        there = unprotected.leak(leak.tap, leak.attribute) if unprotected else None
        certificate = certificate_of(findings.audited, leak)
        where = deployment(leak.tap)
        table.add_row(
            Text(f"{where}, {leak.tap}" if where == ENCLAVE else where),
            _control(KNOWN["unprotected"], leak.tap, leak.attribute, findings),
            percent(there.headline.accuracy.value) if there else DASH,
            _control(KNOWN["audited"], leak.tap, leak.attribute, findings),
            f"{percent(accuracy.value)} ({interval(accuracy)})",
            f"{whole(leak.left.value)} ({interval(leak.left, whole)})" if leak.left else DASH,
            at_most(certificate.certificate.bound) if certificate else DASH,
        )
    return table


def _control(kind: str, tap: str, attribute: str, findings: Findings) -> str:
    """The accuracy of a control; a dash where it is not there."""
    same = (c for c in findings.controls if (c.kind, c.tap, c.attribute) == (kind, tap, attribute))
    return next((percent(control.accuracy.value) for control in same), DASH)
