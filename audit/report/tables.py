"""Findings as tables, whose values have their place in audit.json."""

import dataclasses
import math

from privatenet.audit.attack.findings import Control, Findings, Leak, NetworkFindings
from privatenet.audit.report.cells import DASH_CELL, Cell, Table, estimate_cell, share_cell, without_empty
from privatenet.audit.report.text import (
    DASH,
    attack_name,
    deployment,
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
                estimate_cell(attack.accuracy, f"{at}.accuracy"),
                estimate_cell(attack.excess, f"{at}.excess", points),
                estimate_cell(attack.balanced_accuracy, f"{at}.balanced_accuracy"),
                estimate_cell(attack.auc, f"{at}.auc", number),
                estimate_cell(attack.bits, f"{at}.bits", number),
                share_cell(attack.spread, f"{at}.spread"),
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
    return without_empty(table)


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
                share_cell(leak.majority, f"{at}.majority"),
                _floor(findings, leak.attribute),
                _reference(findings, "unprotected", leak),
                estimate_cell(leak.headline.accuracy, f"{at}.attacks.{leak.best}.accuracy"),
                DASH_CELL if leak.left is None else estimate_cell(leak.left, f"{at}.left", whole),
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
    return without_empty(Table(caption, columns, tuple(rows), headers=2))


def measures_table(findings: Findings) -> Table:
    """The same attackers by other measures, and below each the best one on the other kind of faces."""
    rows = []
    for index, leak in enumerate(findings.audited.leaks):
        at = f"networks.0.leaks.{index}"
        change = DASH_CELL if leak.change is None else estimate_cell(leak.change, f"{at}.change", points)
        robustness = DASH_CELL if leak.robustness is None else share_cell(leak.robustness, f"{at}.robustness", points)
        saving = estimate_cell(leak.code_length, f"{at}.code_length", number)
        for place in sorted(leak.chosen.values(), key=lambda place: place != leak.best):
            attack, where, headline = leak.attacks[place], f"{at}.attacks.{place}", place == leak.best
            rows.append(
                (
                    Cell(leak.attribute),
                    Cell(tap_name(leak.tap)),
                    Cell(attack_name(attack)),
                    estimate_cell(attack.accuracy, f"{where}.accuracy"),
                    estimate_cell(attack.excess, f"{where}.excess", points),
                    change if headline else DASH_CELL,
                    robustness if headline else DASH_CELL,
                    estimate_cell(attack.bits, f"{where}.bits", number),
                    Cell(number(leak.entropy), value=leak.entropy, where=f"{at}.entropy") if headline else DASH_CELL,
                    saving if headline else DASH_CELL,
                    estimate_cell(attack.auc, f"{where}.auc", number),
                    estimate_cell(attack.balanced_accuracy, f"{where}.balanced_accuracy"),
                    Cell(f"{leak.samples:,}", value=leak.samples, where=f"{at}.class_counts"),
                )
            )
    measures = ("best attacker", "accuracy %", "excess", "change", "robustness %", "bits", "entropy", "code length")
    columns = ("attribute", "tap", *measures, "AUC", "balanced %", "samples")
    return without_empty(Table("The best attackers by every measure", columns, tuple(rows), headers=2))


def controls_table(findings: Findings) -> Table:
    """Figures to read the others by: without the network, by known adversaries, and from a network never trained."""
    rows = [
        (
            Cell(control.attribute),
            Cell(CONTROLS.get(control.kind, control.kind)),
            Cell(tap_name(control.tap) or DASH),
            Cell(DASH) if (majority := _majority(findings, control)) is None else majority,
            estimate_cell(control.accuracy, f"controls.{index}.accuracy"),
            estimate_cell(control.balanced_accuracy, f"controls.{index}.balanced_accuracy"),
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
                    share_cell(leak.majority, f"{at}.majority"),
                    estimate_cell(best.accuracy, f"{at}.attacks.{leak.best}.accuracy"),
                    estimate_cell(best.balanced_accuracy, f"{at}.attacks.{leak.best}.balanced_accuracy"),
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
                estimate_cell(network.utility, f"{at}.utility"),
                share_cell(network.utility_majority, f"{at}.utility_majority"),
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
    return without_empty(Table("Networks and their utility", columns, tuple(rows)))


def order(leak: Leak) -> list[int]:
    """Attacks by tuning cross-entropy, the chosen one first; what is undefined last."""
    tuning = [attack.tuning if attack.tuning == attack.tuning else math.inf for attack in leak.attacks]
    return sorted(range(len(tuning)), key=lambda index: (index != leak.best, tuning[index], index))


def _reference(findings: Findings, role: str, leak: Leak) -> Cell:
    """The best attacker's accuracy on another network, at the same tap."""
    for place, network in enumerate(findings.networks):
        for index, other in enumerate(network.leaks if network.role == role else ()):
            if (other.tap, other.attribute) == (leak.tap, leak.attribute):
                return estimate_cell(
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
            share_cell(leak.majority, f"networks.0.leaks.{index}.majority")
            for index, leak in enumerate(network.leaks)
            if leak.attribute == control.attribute
        ),
        None,
    )
