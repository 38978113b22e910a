"""Findings as charts: each function returns a matplotlib `Figure`; its `describe_` twin says the same in words.

Colours are Okabe and Ito's, told apart by the colour-blind; markers and hatches say the same again. Charts are narrow,
so that their words can still be read on a telephone, and drawn without pyplot, so that no state outlives them.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Attack, Estimate, Findings, Leak, NetworkFindings
from privatenet.audit.paper.reproduction import Reproduction
from privatenet.audit.pareto import front
from privatenet.audit.report.tables import order
from privatenet.audit.report.text import attack_name, count, listed, number, percent, points, whole
from privatenet.audit.report.verdict import sharpest
from privatenet.data_shards.files import replacing

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, QUIET = "#1b1f24", "#8a8f98"
ROLES = {"audited": (BLUE, "o", ""), "unprotected": (ORANGE, "s", "////"), "random": (GREEN, "^", "....")}
MARKERS = "DvP*Xhp<>"

_PAPER = "paper"
_WIDTH = 4.3
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": QUIET,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "privatenet",
    "text.parse_math": False,  # class names are names, also those with a dollar sign
}


@dataclass(frozen=True)
class Point:
    """Another network on the trade-off: `group` says how it came about, `excess` is its best attacker's on `attribute`.

    `attribute` may be empty where only one is private.
    """

    label: str
    group: str
    lambda_: float | None
    utility: Estimate
    excess: Estimate
    attribute: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart that was drawn: file name without ending, title, text alternative, caption, and `<svg>` for a page."""

    name: str
    title: str
    text: str
    caption: str
    svg: str


@dataclass(frozen=True)
class LambdaPoint:
    """What one lambda gave: utility, and the accuracies of the known and of an unknown adversary."""

    lambda_: float
    utility: Estimate
    known: Estimate | None
    unknown: Estimate | None


def network_points(found: Findings, label: str) -> list[Point]:
    """The audited network of another audit, a point for every attribute by its sharpest leak."""
    own = found.audited
    attributes = dict.fromkeys(leak.attribute for leak in own.leaks)
    worst = [sharpest([leak for leak in own.leaks if leak.attribute == attribute]) for attribute in attributes]
    group = own.objective or own.role
    return [Point(label, group, own.lambda_, own.utility, leak.headline.excess, leak.attribute) for leak in worst]


def lambda_points(found: Reproduction) -> list[LambdaPoint]:
    """The sweep over lambda of a reproduction of the paper."""
    return [LambdaPoint(n.lambda_, n.utility, n.known.accuracy, n.unknown.accuracy) for n in found.sweep]


@rc_context(_STYLE)
def best_of(findings: Findings, attribute: str) -> Figure:
    """The best attacker's accuracy at every tap, the networks side by side, beside the majority class."""
    leaks = [leak for leak in findings.audited.leaks if leak.attribute == attribute]
    networks = _shown(findings)
    figure = Figure(figsize=(_WIDTH, 1.25 + len(leaks) * (0.2 + 0.17 * len(networks))))
    axes = figure.add_subplot()
    for row, leak in enumerate(leaks):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=QUIET, alpha=0.09, linewidth=0)
        for place, network in enumerate(networks):
            at = row + (place - (len(networks) - 1) / 2) * 0.7 / len(networks)
            found = network.leak(leak.tap, attribute)
            if found is not None:
                _whisker(axes, found.headline.accuracy, at, network.role)
    _majority_line(axes, leaks[0].majority)
    for network in networks:
        colour, marker, _ = _look(network.role)
        axes.plot([], [], marker, color=colour, label=_role(network))
    axes.set_yticks(range(len(leaks)), [_short(leak.tap) for leak in leaks])
    axes.set_ylim(len(leaks) - 0.5, -0.5)
    axes.set_xlabel("accuracy of the best attacker, %")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    _title(figure, attribute)
    figure.legend(
        loc="outside lower left", ncols=4, handlelength=1.3, handletextpad=0.4, columnspacing=1.0, borderpad=0
    )
    return figure


def describe_best_of(findings: Findings, attribute: str) -> str:
    leaks = [leak for leak in findings.audited.leaks if leak.attribute == attribute]
    parts = []
    for leak in leaks:
        others = [
            f"{network.role} {percent(found.headline.accuracy.value)} %"
            for network in findings.networks[1:]
            if (found := network.leak(leak.tap, attribute))
        ]
        beside = f" ({listed(others)})" if others else ""
        parts.append(f"{leak.tap} {percent(leak.headline.accuracy.value)} %{beside}")
    return (
        f"Accuracy of the best attacker on {attribute} by tap of the audited network: {'; '.join(parts)}. "
        f"Majority class {percent(leaks[0].majority)} %."
    )


@rc_context(_STYLE)
def attackers(leak: Leak, most: int = 0, beside: Sequence[Leak] = ()) -> Figure:
    """Attackers on one tap as bars from the majority class, the chosen one first, then by tuning accuracy.

    With `most`, only so many, the paper's adversary always among them. The axis is wide enough for the attackers on the
    taps `beside`, so that charts drawn with the same ones can be compared.
    """
    shown = _some(leak, most)
    figure = Figure(figsize=(_WIDTH, 0.85 + 0.27 * len(shown)))
    axes = figure.add_subplot()
    labels = []
    for row, index in enumerate(shown):
        attack = leak.attacks[index]
        best, excess = index == leak.best, attack.accuracy.value - leak.majority
        look = {"color": BLUE} if best else {"color": BLUE, "alpha": 0.35, "hatch": "////" if _is_paper(attack) else ""}
        if math.isfinite(excess):
            axes.barh(row, 100 * excess, left=100 * leak.majority, height=0.64, linewidth=0, **look)
        _whisker(axes, attack.accuracy, row, "", INK)
        labels.append(_short(attack_name(attack), 30))
    _majority_line(axes, leak.majority)
    axes.set_yticks(range(len(shown)), labels)
    for row, label in enumerate(axes.get_yticklabels()):
        label.set_fontweight("bold" if shown[row] == leak.best else "normal")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    _title(figure, f"{_short(leak.attribute)} from {_short(leak.tap)}")
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
    best, shown = leak.headline, len(_some(leak, most))
    return (
        f"{shown} of {len(leak.attacks)} attackers on {leak.attribute} from {leak.tap}, as bars from the majority "
        f"class at {percent(leak.majority)} %. The best by tuning, {attack_name(best)}, reaches "
        f"{whole(best.accuracy, percent, ' %')} of {count(leak.samples)}."
    )


@rc_context(_STYLE)
def confusion(leak: Leak) -> Figure:
    """The best attacker's answers: rows are true classes, shares of the row, counts below them."""
    counts = np.array(leak.headline.confusion, dtype=np.float64).reshape(len(leak.classes), len(leak.classes))
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
    size, kinds = len(leak.classes), [_short(kind, 16) for kind in leak.classes]
    cell = max(0.34, min(0.62, 3.4 / size))
    figure = Figure(figsize=(1.7 + cell * size, 1.25 + cell * size))
    axes = figure.add_subplot(aspect="equal")
    for row in range(size):
        for column in range(size):
            share, seen = float(shares[row, column]), support[row, 0] > 0
            colour, hatch = (_tint(share), "") if seen else ("#e4e6e9", "////")
            axes.fill(*_square(row, column), facecolor=colour, edgecolor="#ffffff", hatch=hatch, linewidth=1.5)
            if seen:
                text = f"{100 * share:.0f} %\n{counts[row, column]:,.0f}" if size <= 6 else f"{counts[row, column]:.0f}"
                ink = "#ffffff" if share > 0.55 else "#101418"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink, linespacing=1.3)
    crowded = size > 2 or max(map(len, kinds)) > 8
    axes.set_xticks(range(size), kinds, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    axes.set_yticks(range(size), kinds)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _title(figure, f"{_short(leak.attribute)} from {_short(leak.tap)}")
    return figure


def describe_confusion(leak: Leak) -> str:
    parts = []
    for place, (name, size) in enumerate(zip(leak.classes, leak.class_counts, strict=True)):
        right = leak.headline.confusion[place][place]
        parts.append(f"{name} {percent(right / size)} % of {size:,}" if size else f"{name} not tested")
    return f"{attack_name(leak.headline)} on {leak.attribute} from {leak.tap}, right by true class: {', '.join(parts)}."


@rc_context(_STYLE)
def trade_off(findings: Findings, attribute: str, others: Sequence[Point] = ()) -> Figure:
    """Utility against what the best attacker gains over the majority; what nothing dominates stands out."""
    return _front_figure(_candidates(findings, attribute, others), findings.audited.target, attribute, _WIDTH, 3.6)


@rc_context(_STYLE)
def front_chart(points: Sequence[Point], target: str, name: str, references: Sequence[Point] = ()) -> Figure:
    """Utility against leakage of many networks, labelled where nothing dominates them; `name` says what leaks.

    `references` are others' figures, hollow, which neither dominate nor are dominated.
    """
    return _front_figure(points, target, name, 1.3 * _WIDTH, 4.6, references)


def describe_trade_off(findings: Findings, attribute: str, others: Sequence[Point] = ()) -> str:
    candidates = _candidates(findings, attribute, others)
    best = front([(point.utility.value, point.excess.value) for point in candidates])
    parts = [
        f"{point.label} {percent(point.utility.value)} % and {points(point.excess.value)} points"
        for point, good in zip(candidates, best, strict=True)
        if good
    ]
    beaten = len(candidates) - len(parts)
    rest = f" {beaten} more are dominated." if beaten else ""
    return f"Utility and excess on {attribute} of what nothing dominates: {'; '.join(parts)}.{rest}"


@rc_context(_STYLE)
def lambda_curves(name: str, curve: Sequence[LambdaPoint], majority: float | None = None) -> Figure:
    """Utility and the known and unknown adversary's accuracy against lambda; `name` says of which tap and attribute."""
    ordered = sorted(curve, key=lambda point: point.lambda_)
    figure = Figure(figsize=(_WIDTH, 3.3))
    axes = figure.add_subplot()
    lines = (
        ("utility", GREEN, "s", "-", [point.utility for point in ordered]),
        ("known adversary", ORANGE, "v", ":", [point.known for point in ordered]),
        ("unknown adversary", BLUE, "o", "-", [point.unknown for point in ordered]),
    )
    for label, colour, marker, style, estimates in lines:
        pairs = [(point.lambda_, e) for point, e in zip(ordered, estimates, strict=True) if e is not None]
        if pairs:
            ends = np.concatenate([_sides(estimate) for _, estimate in pairs], axis=1)
            values = [100 * estimate.value for _, estimate in pairs]
            steps = [lambda_ for lambda_, _ in pairs]
            axes.errorbar(steps, values, yerr=ends, color=colour, fmt=marker + style, markersize=5, label=label)
    if majority is not None:
        axes.axhline(100 * majority, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="majority")
    axes.set_xlabel("lambda")
    axes.set_ylabel("accuracy, %")
    _title(figure, name)
    axes.grid(axis="y")
    figure.legend(loc="outside lower left", ncols=2, columnspacing=1.2, borderpad=0)
    return figure


def describe_lambda(name: str, curve: Sequence[LambdaPoint], majority: float | None = None) -> str:
    ordered = sorted(curve, key=lambda point: point.lambda_)
    parts = []
    for point in (ordered[0], ordered[-1])[: len(ordered)]:
        pairs = {"known adversary": point.known, "unknown adversary": point.unknown}
        read = [f"{who} {percent(estimate.value)} %" for who, estimate in pairs.items() if estimate is not None]
        parts.append(f"at lambda {point.lambda_:g} {', '.join([f'utility {percent(point.utility.value)} %', *read])}")
    line = "" if majority is None else f" Majority class {percent(majority)} %."
    return f"{name}: {'; '.join(parts)}.{line}"


@rc_context(_STYLE)
def training_curves(network: NetworkFindings) -> Figure:
    """Training curves, one panel for each kind of metric."""
    panels: dict[str, list[str]] = {}
    for metric in network.curves:
        panels.setdefault(_kind(metric), []).append(metric)
    figure = Figure(figsize=(_WIDTH, 0.4 + sum(1.75 + 0.1 * len(metrics) for metrics in panels.values())))
    grid = figure.subplots(max(1, len(panels)), 1, squeeze=False, sharex=True)[:, 0]
    palette = (BLUE, ORANGE, GREEN, RED, PURPLE)
    for axes, (kind, metrics) in zip(grid, panels.items(), strict=False):
        for place, metric in enumerate(metrics):
            steps = [epoch for epoch, _ in network.curves[metric]]
            values = [value for _, value in network.curves[metric]]
            look = {"color": palette[place % len(palette)], "marker": MARKERS[place % len(MARKERS)]}
            axes.plot(steps, values, **look, markersize=3.5, linewidth=1.2, label=_short(metric, 44))
        axes.set_title(kind)
        axes.grid(axis="y")
        axes.legend(loc="best", fontsize=8, framealpha=0.5)
    grid[-1].set_xlabel("epoch")
    return figure


def describe_training(network: NetworkFindings) -> str:
    ends = [f"{metric} {number(curve[-1][1], 3)}" for metric, curve in network.curves.items() if curve]
    return f"Training curves of the {network.role} network; at the end {', '.join(ends)}."


def to_svg(figure: Figure, name: str = "", title: str = "", text: str = "") -> str:
    """An `<svg>` element: the same bytes every time, with `title` and `text` for those who hear it.

    With a `name` it is made to share a page with others: ids begin with it, ink has the colour of the words around.
    """
    stream = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # The page's own font has what the one used for measuring may lack.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    labels = f"<title>{_xml(title)}</title><desc>{_xml(text)}</desc>" if title else ""
    svg = re.sub(r"<svg([^>]*)>", lambda match: f'<svg role="img"{match[1]}>{labels}', svg, count=1).strip()
    return _shared(svg, name) if name else svg


def save(figure: Figure, folder: Path, name: str, title: str, text: str, caption: str = "") -> Chart:
    """Write `name`.svg and `name`.png, on white, into a folder that exists; the figure's layout stays as it is then."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or it would be worked out again for each file
    svg = to_svg(figure, "", title, text)
    white = re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)
    with replacing(folder / f"{name}.svg") as stream:
        stream.write(f'<?xml version="1.0" encoding="utf-8"?>\n{white}\n'.encode())
    to_png(figure, folder / f"{name}.png")
    return Chart(name, title, text, caption or title, _shared(svg, name))


def to_png(figure: Figure, path: Path) -> None:
    """Write a picture on white."""
    with rc_context(_STYLE), warnings.catch_warnings(), replacing(path) as stream:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format="png", dpi=160, facecolor="#ffffff", metadata={"Software": None})


def _front_figure(
    points: Sequence[Point], target: str, name: str, width: float, height: float, references: Sequence[Point] = ()
) -> Figure:
    """Points with whiskers, those on the front coloured, noted by lambda or label, and joined."""
    best = front([(point.utility.value, point.excess.value) for point in points])
    looks = _group_looks(point.group for point in points)
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for point, good in zip(points, best, strict=True):
        colour, marker = looks[point.group]
        at = (100 * point.utility.value, 100 * point.excess.value)
        if not all(map(math.isfinite, at)):
            continue
        axes.errorbar(
            *at,
            xerr=_sides(point.utility),
            yerr=_sides(point.excess),
            fmt=marker,
            color=colour if good else QUIET,
            alpha=1.0 if good else 0.55,
            markersize=6.5 if good else 5,
            elinewidth=1.0 if good else 0.7,
            zorder=3 if good else 2,
        )
        if good and point.group not in ROLES:
            note = point.label if point.lambda_ is None else f"{point.lambda_:g}"
            axes.annotate(_short(note, 18), at, (6, -9), textcoords="offset points", fontsize=8)
    line = sorted((p.utility.value, p.excess.value) for p, good in zip(points, best, strict=True) if good)
    axes.plot([100 * u for u, _ in line], [100 * e for _, e in line], color=INK, linewidth=1, alpha=0.5, zorder=1)
    for group, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, label=_short("this network" if group == "audited" else group))
    if references:
        places = [[100 * point.utility.value, 100 * point.excess.value] for point in references]
        axes.plot(
            *zip(*places, strict=True),
            "D",
            color=QUIET,
            fillstyle="none",
            markersize=6,
            label=_short(references[0].group, 60),
        )
    axes.set_xlabel(f"utility: {_short(target)} accuracy, %  (more is better)")
    axes.set_ylabel("excess, points  (less is better)")
    _title(figure, name)
    axes.grid()
    axes.margins(0.16)
    figure.legend(loc="outside lower left", ncols=3, handletextpad=0.4, columnspacing=1.2, borderpad=0)
    return figure


def _shown(findings: Findings) -> list[NetworkFindings]:
    """The audited network and one for every other role."""
    return list({network.role: network for network in reversed(findings.networks)}.values())[::-1]


def _role(network: NetworkFindings) -> str:
    return {"audited": "this network", "random": "never trained"}.get(network.role, network.role)


def _look(role: str) -> tuple[str, str, str]:
    return ROLES.get(role, (PURPLE, "D", "xxxx"))


def _group_looks(groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by group: of networks those of their role, of others what roles do not have."""
    ranked = sorted(dict.fromkeys(groups), key=lambda group: group not in ROLES)
    free = [group for group in ranked if group not in ROLES]
    colours = (GREEN, PURPLE, RED)
    others = {group: (colours[at % 3], MARKERS[at % len(MARKERS)]) for at, group in enumerate(free)}
    return {group: ROLES[group][:2] if group in ROLES else others[group] for group in ranked}


def _whisker(axes: Axes, estimate: Estimate, at: float, role: str, colour: str = "") -> None:
    if not math.isfinite(estimate.value):
        axes.text(0.01, at, "undefined", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=QUIET)
        return
    own, marker, _ = _look(role)
    marker = marker if role else "|"
    axes.errorbar(
        100 * estimate.value,
        at,
        xerr=_sides(estimate),
        fmt=marker,
        color=colour or own,
        markersize=5.5 if role else 0,
        elinewidth=1.2,
        capsize=2.2,
    )


def _sides(estimate: Estimate) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Whiskers [2, 1] in percent; none where the interval is undefined."""
    sides = np.array([[estimate.value - estimate.low], [estimate.high - estimate.value]])
    kept: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.nan_to_num(sides, posinf=0.0, neginf=0.0).clip(0.0)
    return 100 * kept


def _majority_line(axes: Axes, majority: float) -> None:
    if math.isfinite(majority):
        axes.axvline(100 * majority, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label="majority")


def _some(leak: Leak, most: int) -> list[int]:
    """The first `most` attacks by tuning (all with 0), and the paper's adversary."""
    ranked = order(leak)
    return [index for place, index in enumerate(ranked) if not most or place < most or _is_paper(leak.attacks[index])]


def _is_paper(attack: Attack) -> bool:
    return _PAPER in attack.attacker


def _candidates(findings: Findings, attribute: str, others: Sequence[Point]) -> list[Point]:
    """The trained networks, each with its sharpest leak, and the other points of the same attribute."""
    own = []
    for network in findings.networks:
        leaks = [leak for leak in network.leaks if leak.attribute == attribute]
        if leaks and network.role != "random":
            excess = sharpest(leaks).headline.excess
            own.append(Point(_role(network), network.role, None, network.utility, excess, attribute))
    return [*own, *(point for point in others if point.attribute in ("", attribute))]


def _kind(metric: str) -> str:
    """Which panel a metric is drawn in."""
    last = metric.rsplit("/", 1)[-1]
    if last in ("accuracy", "balanced_accuracy", "majority"):
        return "accuracy"
    return "training loss" if metric.startswith("train/") else last


def _square(row: int, column: int) -> tuple[list[float], list[float]]:
    left, top = column - 0.5, row - 0.5
    return [left, left + 1, left + 1, left], [top, top, top + 1, top + 1]


def _tint(share: float) -> str:
    """White to blue."""
    low, high = (0xF3, 0xF6, 0xF9), (0x00, 0x5A, 0x94)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(_short(text, 52), x=0.008, ha="left", fontsize=10, fontweight="bold")


def _short(text: str, most: int = 24) -> str:
    """Text for a chart: one line, without what no chart can draw, cut where it is long."""
    line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return line if len(line) <= most else line[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _shared(svg: str, name: str) -> str:
    """An svg whose ids are its own among others and whose colours suit the page, also a dark one; its words stay."""

    def own(tag: re.Match[str]) -> str:
        own_ids = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", tag[0])
        return own_ids.replace(INK, "currentColor").replace(BLUE.lower(), f"var(--blue, {BLUE.lower()})")

    return re.sub(r"<[^>]*>", own, svg)


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
