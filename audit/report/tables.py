"""Findings as tables: one form of a table, written as Markdown, or by the page as HTML.

`where` of a cell is the place of its value in audit.json, for example `networks.0.leaks.2.majority`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from privatenet.audit.attack.findings import Control, Estimate, Findings, Leak, NetworkFindings
from privatenet.audit.report.text import (
    DASH,
    attack_name,
    deployment,
    interval,
    markdown,
    number,
    percent,
    points,
    tap_name,
    whole,
)

CONTROLS = {
    "target-label": "sees only the true target label",
    "image-adversary": "sees the picture itself",
    "known-adversary": "adversary of the training run",
}


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the text of its interval, and its value in full with the value's place (`where`)."""

    text: str
    interval: str = ""
    value: Estimate | float | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `headers` cells of a row say what the row is about, the others are values or notes."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    headers: int = 1

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are set to the right."""
        return any(row[column].value is not None for row in self.rows)


def markdown_table(table: Table) -> str:
    """A Markdown table without its caption."""
    rule = ["---:" if table.numeric(index) else "---" for index in range(len(table.columns))]
    lines = [list(map(markdown, table.columns)), rule, *([markdown(str(cell)) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def attacks_table(leak: Leak, where: str = "") -> Table:
    """Every attacker on one tap and attribute, in the order of tuning; `where` is the leak's own place."""
    rows = []
    for index in order(leak):
        attack, at = leak.attacks[index], f"{where}.attacks.{index}"
        rows.append(
            (
                Cell(attack.attacker + (" (best)" if index == leak.best else "")),
                Cell(attack.representation),
                Cell(attack.faces),
                Cell(f"{attack.numbers:,}", value=attack.numbers, where=f"{at}.numbers"),
                Cell(number(attack.tuning), value=attack.tuning, where=f"{at}.tuning"),
                _estimate(attack.accuracy, f"{at}.accuracy"),
                _estimate(attack.excess, f"{at}.excess", points),
                _estimate(attack.balanced_accuracy, f"{at}.balanced_accuracy"),
                _estimate(attack.auc, f"{at}.auc", number),
                _estimate(attack.bits, f"{at}.bits", number),
                _share(attack.spread, f"{at}.spread"),
                Cell(str(attack.seeds), value=attack.seeds, where=f"{at}.seeds"),
                Cell(number(attack.seconds, 1), value=attack.seconds, where=f"{at}.seconds"),
                Cell(attack.note),
            )
        )
    columns = (
        "numbers",
        "tuning bits",
        "accuracy %",
        "excess",
        "balanced %",
        "AUC",
        "bits",
        "spread",
        "seeds",
        "seconds",
    )
    table = Table(
        f"{leak.attribute} from {tap_name(leak.tap)}", ("attacker", "sees", "faces", *columns, "note"), tuple(rows)
    )
    return _without_empty(table)


def leaks_table(findings: Findings) -> Table:
    """What the best attacker reads of each attribute at each tap of the audited network, and what to judge it by."""
    rows = []
    network = findings.audited
    for index, leak in enumerate(network.leaks):
        at = f"networks.0.leaks.{index}"
        protected = " *" if f"{leak.tap}-{leak.attribute}" in network.protected else ""
        rows.append(
            (
                Cell(leak.attribute),
                Cell(tap_name(leak.tap) + protected),
                Cell(deployment(leak.tap)),
                _share(leak.majority, f"{at}.majority"),
                _floor(findings, leak.attribute),
                _reference(findings, "unprotected", leak),
                _estimate(leak.headline.accuracy, f"{at}.attacks.{leak.best}.accuracy"),
                DASH_CELL if leak.left is None else _estimate(leak.left, f"{at}.left", whole),
                Cell(leak.headline.faces),
            )
        )
    columns = (
        "attribute",
        "tap",
        "deployment",
        "majority %",
        "floor %",
        "unprotected %",
        "this network %",
        "left %",
        "faces",
    )
    caption = "What the best attacker reads from the audited network" + (" (* protected)" if network.protected else "")
    return _without_empty(Table(caption, columns, tuple(rows), headers=2))


def measures_table(findings: Findings) -> Table:
    """The same attackers by other measures, and below each the best one on the other kind of faces."""
    rows = []
    for index, leak in enumerate(findings.audited.leaks):
        at = f"networks.0.leaks.{index}"
        change = DASH_CELL if leak.change is None else _estimate(leak.change, f"{at}.change", points)
        robustness = DASH_CELL if leak.robustness is None else _share(leak.robustness, f"{at}.robustness", points)
        saving = _estimate(leak.code_length, f"{at}.code_length", number)
        for place in sorted(leak.chosen.values(), key=lambda place: place != leak.best):
            attack, where, headline = leak.attacks[place], f"{at}.attacks.{place}", place == leak.best
            rows.append(
                (
                    Cell(leak.attribute),
                    Cell(tap_name(leak.tap)),
                    Cell(attack_name(attack)),
                    _estimate(attack.accuracy, f"{where}.accuracy"),
                    _estimate(attack.excess, f"{where}.excess", points),
                    change if headline else DASH_CELL,
                    robustness if headline else DASH_CELL,
                    _estimate(attack.bits, f"{where}.bits", number),
                    Cell(number(leak.entropy), value=leak.entropy, where=f"{at}.entropy") if headline else DASH_CELL,
                    saving if headline else DASH_CELL,
                    _estimate(attack.auc, f"{where}.auc", number),
                    _estimate(attack.balanced_accuracy, f"{where}.balanced_accuracy"),
                    Cell(f"{leak.samples:,}", value=leak.samples, where=f"{at}.class_counts"),
                )
            )
    measures = ("best attacker", "accuracy %", "excess", "change", "robustness %", "bits", "entropy", "code length")
    columns = ("attribute", "tap", *measures, "AUC", "balanced %", "samples")
    return _without_empty(Table("The best attackers by every measure", columns, tuple(rows), headers=2))


def controls_table(findings: Findings) -> Table:
    """Figures to read the others by: without the network, by known adversaries, and from a network never trained."""
    rows = [
        (
            Cell(control.attribute),
            Cell(CONTROLS.get(control.kind, control.kind)),
            Cell(tap_name(control.tap) or DASH),
            Cell(DASH) if (majority := _majority(findings, control)) is None else majority,
            _estimate(control.accuracy, f"controls.{index}.accuracy"),
            _estimate(control.balanced_accuracy, f"controls.{index}.balanced_accuracy"),
        )
        for index, control in enumerate(findings.controls)
    ]
    for place, network in enumerate(findings.networks):
        for index, leak in enumerate(network.leaks if network.role == "random" else ()):
            at, best = f"networks.{place}.leaks.{index}", leak.headline
            rows.append(
                (
                    Cell(leak.attribute),
                    Cell("best attacker on a network never trained"),
                    Cell(tap_name(leak.tap)),
                    _share(leak.majority, f"{at}.majority"),
                    _estimate(best.accuracy, f"{at}.attacks.{leak.best}.accuracy"),
                    _estimate(best.balanced_accuracy, f"{at}.attacks.{leak.best}.balanced_accuracy"),
                )
            )
    columns = ("attribute", "adversary", "tap", "majority %", "accuracy %", "balanced %")
    attributes = list(dict.fromkeys(leak.attribute for leak in findings.audited.leaks))
    rows.sort(key=lambda row: attributes.index(row[0].text) if row[0].text in attributes else len(attributes))
    return Table("Controls: figures to read the others by", columns, tuple(rows), headers=2)


def protocol_table(findings: Findings) -> Table:
    """How the figures came about."""
    protocol = findings.protocol
    names = {
        "faces": "faces that attackers are fitted on",
        "fitting": "samples of the training split that attackers are fitted on",
        "tuning": "samples that choose among them",
        "testing": "test samples, judged once",
        "seeds": "seeds of each attacker",
        "confidence": "confidence of intervals",
        "resamples": "bootstrap resamples",
        "components": "principal components kept of a tap",
        "precision": "precision",
        "device": "device",
        "seconds": "seconds",
        "peak_memory_gib": "peak memory, GiB",
    }
    rows = []
    for key, value in dataclasses.asdict(protocol).items():
        text = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        number = None if isinstance(value, str) else value
        rows.append((Cell(names[key]), Cell(text, value=number, where=f"protocol.{key}")))
    return Table("Protocol", ("what", "value"), tuple(rows))


def networks_table(findings: Findings) -> Table:
    """The networks under attack, and how well each does its own work."""
    rows = []
    for place, network in enumerate(findings.networks):
        at = f"networks.{place}"
        rows.append(
            (
                Cell(network.role),
                Cell(network.stage or DASH),
                _estimate(network.utility, f"{at}.utility"),
                _share(network.utility_majority, f"{at}.utility_majority"),
                DASH_CELL if network.draws == 1 else Cell(str(network.draws), value=network.draws, where=f"{at}.draws"),
                Cell(network.objective or DASH),
                DASH_CELL
                if network.lambda_ is None
                else Cell(f"{network.lambda_:g}", value=network.lambda_, where=f"{at}.lambda_"),
                Cell(", ".join(network.protected) or DASH),
                Cell(network.affinity or DASH),
                Cell(network.checkpoint or DASH),
                Cell(network.sha256 or DASH),
            )
        )
    utility = (f"{findings.audited.target} %", "majority %", "mean over draws")
    columns = ("network", "stage", *utility, "objective", "lambda", "protected", "affinity", "checkpoint", "sha256")
    return _without_empty(Table("Networks and their utility", columns, tuple(rows)))


def order(leak: Leak) -> list[int]:
    """Attacks by tuning cross-entropy, the chosen one first; what is undefined last."""
    tuning = [attack.tuning if attack.tuning == attack.tuning else math.inf for attack in leak.attacks]
    return sorted(range(len(tuning)), key=lambda index: (index != leak.best, tuning[index], index))


DASH_CELL = Cell(DASH)


def _share(share: float, where: str, show: Callable[[float], str] = percent) -> Cell:
    return Cell(show(share), value=share, where=where)


def _estimate(estimate: Estimate, where: str, show: Callable[[float], str] = percent) -> Cell:
    ends = interval(estimate, show)
    return Cell(show(estimate.value), "" if ends == DASH else ends, estimate, where)


def _reference(findings: Findings, role: str, leak: Leak) -> Cell:
    """The best attacker's accuracy on another network, at the same tap."""
    for place, network in enumerate(findings.networks):
        for index, other in enumerate(network.leaks if network.role == role else ()):
            if (other.tap, other.attribute) == (leak.tap, leak.attribute):
                return _estimate(
                    other.headline.accuracy, f"networks.{place}.leaks.{index}.attacks.{other.best}.accuracy"
                )
    return DASH_CELL


def _floor(findings: Findings, attribute: str) -> Cell:
    """The accuracy of who sees only the true target label."""
    for index, control in enumerate(findings.controls):
        if (control.kind, control.attribute) == ("target-label", attribute):
            return Cell(percent(control.accuracy.value), value=control.accuracy, where=f"controls.{index}.accuracy")
    return DASH_CELL


def _majority(findings: Findings, control: Control) -> Cell | None:
    """The majority of a control's attribute, which it shares with the leaks."""
    network: NetworkFindings = findings.audited
    return next(
        (
            _share(leak.majority, f"networks.0.leaks.{index}.majority")
            for index, leak in enumerate(network.leaks)
            if leak.attribute == control.attribute
        ),
        None,
    )


def _without_empty(table: Table) -> Table:
    """Without columns whose cells are all empty."""
    columns = [
        index
        for index in range(len(table.columns))
        if not table.rows or any(row[index].text not in ("", DASH) for row in table.rows)
    ]
    rows = tuple(tuple(row[index] for index in columns) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[index] for index in columns), rows=rows)
