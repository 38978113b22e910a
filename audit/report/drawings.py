"""All charts of a report, drawn into files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privatenet.audit.attack.findings import Findings, NetworkFindings
from privatenet.audit.report import charts, curves
from privatenet.audit.report.cells import Table
from privatenet.audit.report.curves import LambdaMark
from privatenet.audit.report.style import Chart, save
from privatenet.audit.report.tables import attacks_table
from privatenet.audit.report.text import attack_name, percent, tap_name, with_interval
from privatenet.audit.report.trade_off import Mark, describe_trade_off, trade_off

MOST = 6
"""Attackers drawn of each tap; the tables and the full charts have all."""


@dataclass(frozen=True)
class Group:
    """The charts of one private attribute; `details` are every attacker on a tap, as a table and as a chart."""

    attribute: str
    classes: int
    overview: Chart
    attackers: tuple[Chart, ...]
    confusions: tuple[Chart, ...]
    trade_off: Chart
    details: tuple[tuple[Table, Chart], ...]


@dataclass(frozen=True)
class Drawings:
    """All charts of a report: by private attribute, over lambda, and of training."""

    groups: list[Group]
    curves: list[Chart]
    training: list[Chart]


def draw(
    findings: Findings, marks: Sequence[Mark], lambda_marks: Mapping[str, Sequence[LambdaMark]], folder: Path
) -> Drawings:
    """Draw all charts into an existing folder; `marks` are other networks for the trade-off, `lambda_marks` curves by
    attribute or tap-attribute."""
    attributes = dict.fromkeys(leak.attribute for leak in findings.audited.leaks)
    by_name = [(name, curve) for name, curve in lambda_marks.items() if curve]
    return Drawings(
        [_group(findings, attribute, marks, folder) for attribute in attributes],
        [_lambda_chart(findings, place, name, curve, folder) for place, (name, curve) in enumerate(by_name)],
        [_training_chart(network, folder) for network in findings.networks if network.curves],
    )


def _group(findings: Findings, attribute: str, others: Sequence[Mark], folder: Path) -> Group:
    """Draw all charts of one attribute."""
    leaks = [(place, leak) for place, leak in enumerate(findings.audited.leaks) if leak.attribute == attribute]
    beside = [leak for _, leak in leaks]
    attackers, confusions, details = [], [], []
    for place, leak in leaks:
        name = f"{place:02d}-{_slug(leak.attribute)}-{_slug(leak.tap)}"
        title = f"{leak.attribute} from {tap_name(leak.tap)}"
        who = attack_name(leak.headline)
        figure, text = charts.attackers(leak, MOST, beside), charts.describe_attackers(leak, MOST)
        best = f"Best: {who}, {with_interval(leak.headline.accuracy, percent, ' %')}"
        attackers.append(save(figure, folder, f"attackers-{name}", f"Attackers, {title}", text, best))
        figure, text = charts.attackers(leak, beside=beside), charts.describe_attackers(leak)
        every = save(figure, folder, f"every-attacker-{name}", f"Every attacker, {title}", text)
        details.append((attacks_table(leak, f"networks.0.leaks.{place}"), every))
        figure, text = charts.confusion(leak), charts.describe_confusion(leak)
        confusions.append(save(figure, folder, f"confusion-{name}", f"Confusion, {title}", text, f"Answers of {who}"))
    name, whiskers = f"{leaks[0][0]:02d}-{_slug(attribute)}", _whiskers(findings)
    figure, text = charts.best_of(findings, attribute), charts.describe_best_of(findings, attribute)
    overview = save(figure, folder, f"best-{name}", f"Best attackers, {attribute}", text, whiskers)
    figure, text = trade_off(findings, attribute, others), describe_trade_off(findings, attribute, others)
    numbered = any(mark.lambda_ is not None and mark.attribute in ("", attribute) for mark in others)
    caption = f"{whiskers} Numbers beside points are lambda." if numbered else whiskers
    front = save(figure, folder, f"trade-off-{name}", f"Trade-off, {attribute}", text, caption)
    classes = len(leaks[0][1].classes)
    return Group(attribute, classes, overview, tuple(attackers), tuple(confusions), front, tuple(details))


def _lambda_chart(findings: Findings, place: int, name: str, curve: Sequence[LambdaMark], folder: Path) -> Chart:
    leaks = [leak for leak in findings.audited.leaks if name in (leak.attribute, f"{leak.tap}-{leak.attribute}")]
    majority = leaks[0].majority if leaks else None
    figure, text = curves.lambda_curves(name, curve, majority), curves.describe_lambda(name, curve, majority)
    return save(figure, folder, f"lambda-{place:02d}-{_slug(name)}", f"Lambda, {name}", text, _whiskers(findings))


def _training_chart(network: NetworkFindings, folder: Path) -> Chart:
    figure, text = curves.training_curves(network), curves.describe_training(network)
    return save(figure, folder, f"training-{network.role}", f"Training, {network.role} network", text)


def _whiskers(findings: Findings) -> str:
    return f"Whiskers are {100 * findings.protocol.confidence:.3g} % intervals."


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:40] or "unnamed"
