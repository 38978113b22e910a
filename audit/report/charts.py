"""What leaks, as charts: each function returns a matplotlib `Figure`; its `describe_` twin says the same in words."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Attack, Estimate, Findings, Leak, NetworkFindings
from privatenet.audit.report import style
from privatenet.audit.report.tables import order
from privatenet.audit.report.text import attack_name, count, in_words, percent, tap_name, with_interval

ROLES = {"audited": (style.BLUE, "o"), "unprotected": (style.ORANGE, "s"), "random": (style.GREEN, "^")}
"""Colour and marker of a network's role."""
PAPER = "paper"
"""In the names of the paper's adversaries."""


@style.rc
def best_of(findings: Findings, attribute: str) -> Figure:
    """The best attacker's accuracy at every tap, the networks side by side, beside majority class and floor."""
    leaks = [leak for leak in findings.audited.leaks if leak.attribute == attribute]
    networks = _by_role(findings)
    figure = Figure(figsize=(style.WIDTH, 1.25 + len(leaks) * (0.2 + 0.17 * len(networks))))
    axes = figure.add_subplot()
    for row, leak in enumerate(leaks):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=style.QUIET, alpha=0.09, linewidth=0)
        for place, network in enumerate(networks):
            at = row + (place - (len(networks) - 1) / 2) * 0.7 / len(networks)
            if (same := network.leak(leak.tap, attribute)) is not None:
                colour, marker = _look(network.role)
                _estimate(axes, same.headline.accuracy, at, colour, marker)
    _majority_line(axes, leaks[0].majority)
    if (floor := findings.floor(attribute)) is not None:
        axes.axvline(100 * floor.value, color=style.INK, linewidth=1, linestyle=style.DOTS, label="floor")
    for network in networks:
        colour, marker = _look(network.role)
        axes.plot([], [], marker, color=colour, label=role_label(network))
    axes.set_yticks(range(len(leaks)), [style.shorten(tap_name(leak.tap)) for leak in leaks])
    axes.set_ylim(len(leaks) - 0.5, -0.5)
    axes.set_xlabel("accuracy of the best attacker, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    style.set_title(figure, attribute)
    figure.legend(
        loc="outside lower left", ncols=4, handlelength=1.3, handletextpad=0.4, columnspacing=1.0, borderpad=0
    )
    return figure


def describe_best_of(findings: Findings, attribute: str) -> str:
    leaks = [leak for leak in findings.audited.leaks if leak.attribute == attribute]
    floor = findings.floor(attribute)
    alone = f", floor {percent(floor.value)} %" if floor else ""
    taps = []
    for leak in leaks:
        others = [
            f"{network.role} {percent(same.headline.accuracy.value)} %"
            for network in findings.networks[1:]
            if (same := network.leak(leak.tap, attribute))
        ]
        beside = f" ({in_words(others)})" if others else ""
        taps.append(f"{tap_name(leak.tap)} {percent(leak.headline.accuracy.value)} %{beside}")
    return (
        f"Accuracy of the best attacker on {attribute} by tap of the audited network: {'; '.join(taps)}. "
        f"Majority class {percent(leaks[0].majority)} %{alone}."
    )


@style.rc
def attackers(leak: Leak, most: int = 0, beside: Sequence[Leak] = ()) -> Figure:
    """Attackers on one tap as bars from the majority class, the best one first, then by tuning cross-entropy.

    With `most`, only so many, the paper's adversary always among them. The axis is wide enough for the attackers on the
    taps `beside`, so that charts drawn with the same ones can be compared.
    """
    rows = _first(leak, most)
    figure = Figure(figsize=(style.WIDTH, 0.85 + 0.27 * len(rows)))
    axes = figure.add_subplot()
    labels = []
    for row, index in enumerate(rows):
        attack = leak.attacks[index]
        best, excess = index == leak.best, attack.accuracy.value - leak.majority
        look = (
            {"color": style.BLUE}
            if best
            else {"color": style.BLUE, "alpha": 0.35, "hatch": "////" if _is_paper(attack) else ""}
        )
        if math.isfinite(excess):
            axes.barh(row, 100 * excess, left=100 * leak.majority, height=0.64, linewidth=0, **look)
        _estimate(axes, attack.accuracy, row, style.INK)
        labels.append(style.shorten(attack_name(attack), 30))
    _majority_line(axes, leak.majority)
    axes.set_yticks(range(len(rows)), labels)
    for index, label in zip(rows, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if index == leak.best else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.set_title(figure, f"{style.shorten(leak.attribute)} from {style.shorten(tap_name(leak.tap))}")
    axes.set_xlabel("accuracy, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    ends = [e for other in (leak, *beside) for a in other.attacks for e in (a.accuracy.low, a.accuracy.high)]
    finite = [100 * end for end in (*ends, leak.majority) if math.isfinite(end)]
    if finite:
        room = 0.04 * (max(finite) - min(finite)) + 0.5
        axes.set_xlim(min(finite) - room, max(finite) + room)
    return figure


def describe_attackers(leak: Leak, most: int = 0) -> str:
    best, number = leak.headline, len(_first(leak, most))
    return (
        f"{number} of {count(len(leak.attacks), 'attacker')} on {leak.attribute} from {tap_name(leak.tap)}, "
        f"as bars from the majority class at {percent(leak.majority)} %. The best by tuning, {attack_name(best)}, "
        f"reaches {with_interval(best.accuracy, percent, ' %')} of {count(leak.samples)}."
    )


@style.rc
def confusion(leak: Leak) -> Figure:
    """The best attacker's answers: rows are true classes, shares of the row, counts below them."""
    counts = np.array(leak.headline.confusion, dtype=np.float64).reshape(len(leak.classes), len(leak.classes))
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
    size, classes = len(leak.classes), [style.shorten(name, 16) for name in leak.classes]
    cell = max(0.34, min(0.62, 3.4 / size))
    figure = Figure(figsize=(1.7 + cell * size, 1.25 + cell * size))
    axes = figure.add_subplot(aspect="equal")
    for row in range(size):
        for column in range(size):
            share, tested = float(shares[row, column]), support[row, 0] > 0
            colour, hatch = (_tint(share), "") if tested else ("#e4e6e9", "////")
            axes.fill(*_square(row, column), facecolor=colour, edgecolor="#ffffff", hatch=hatch, linewidth=1.5)
            if tested:
                text = f"{100 * share:.0f} %\n{counts[row, column]:,.0f}" if size <= 6 else f"{counts[row, column]:.0f}"
                ink = "#ffffff" if share > 0.55 else "#101418"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink, linespacing=1.3)
    crowded = size > 2 or max(map(len, classes)) > 8
    axes.set_xticks(range(size), classes, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    axes.set_yticks(range(size), classes)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    style.set_title(figure, f"{style.shorten(leak.attribute)} from {style.shorten(tap_name(leak.tap))}")
    return figure


def describe_confusion(leak: Leak) -> str:
    recalls = []
    for place, (name, size) in enumerate(zip(leak.classes, leak.class_counts, strict=True)):
        right = leak.headline.confusion[place][place]
        recalls.append(f"{name} {percent(right / size)} % of {size:,}" if size else f"{name} not tested")
    who = attack_name(leak.headline)
    return f"{who} on {leak.attribute} from {tap_name(leak.tap)}, right by true class: {', '.join(recalls)}."


def role_label(network: NetworkFindings) -> str:
    return {"audited": "this network", "random": "never trained"}.get(network.role, network.role)


def _by_role(findings: Findings) -> list[NetworkFindings]:
    """The audited network and one for every other role."""
    return list({network.role: network for network in reversed(findings.networks)}.values())[::-1]


def _look(role: str) -> tuple[str, str]:
    return ROLES.get(role, (style.PURPLE, "D"))


def _estimate(axes: Axes, estimate: Estimate, row: float, colour: str, marker: str = "") -> None:
    """An estimate with its interval, in percent; without a `marker` the interval alone."""
    if not math.isfinite(estimate.value):
        axes.text(
            0.01, row, "undefined", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=style.QUIET
        )
        return
    axes.errorbar(
        100 * estimate.value,
        row,
        xerr=style.error_bar(estimate),
        fmt=marker or "|",
        color=colour,
        markersize=5.5 if marker else 0,
        elinewidth=1.2,
        capsize=2.2,
    )


def _majority_line(axes: Axes, majority: float) -> None:
    if math.isfinite(majority):
        axes.axvline(100 * majority, color=style.INK, linewidth=1.1, linestyle=style.DASHES, label="majority")


def _first(leak: Leak, most: int) -> list[int]:
    """The first `most` attacks by tuning (all with 0), and the paper's adversary."""
    return [index for at, index in enumerate(order(leak)) if not most or at < most or _is_paper(leak.attacks[index])]


def _is_paper(attack: Attack) -> bool:
    return PAPER in attack.attacker


def _square(row: int, column: int) -> tuple[list[float], list[float]]:
    left, top = column - 0.5, row - 0.5
    return [left, left + 1, left + 1, left], [top, top, top + 1, top + 1]


def _tint(share: float) -> str:
    """White to blue."""
    low, high = (0xF3, 0xF6, 0xF9), (0x00, 0x5A, 0x94)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))
