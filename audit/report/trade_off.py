"""Utility against leakage: networks as marks, and the front of those that no other one dominates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privatenet.audit.attack.findings import Estimate, Findings
from privatenet.audit.pareto import front
from privatenet.audit.report import style
from privatenet.audit.report.charts import ROLES, role_label
from privatenet.audit.report.text import percent, points
from privatenet.audit.report.verdict import sharpest


@dataclass(frozen=True)
class Mark:
    """A network on the chart: `group` is its objective or role, `excess` that of its best attacker on `attribute`.

    `attribute` may be empty where only one is private.
    """

    label: str
    group: str
    lambda_: float | None
    utility: Estimate
    excess: Estimate
    attribute: str = ""


def network_marks(findings: Findings, label: str) -> list[Mark]:
    """The audited network of another audit: a mark for every attribute, at its sharpest leak."""
    network = findings.audited
    attributes = dict.fromkeys(leak.attribute for leak in network.leaks)
    worst = [sharpest([leak for leak in network.leaks if leak.attribute == attribute]) for attribute in attributes]
    group = network.objective or network.role
    return [
        Mark(label, group, network.lambda_, network.utility, leak.headline.excess, leak.attribute) for leak in worst
    ]


@style.rc
def trade_off(findings: Findings, attribute: str, others: Sequence[Mark] = ()) -> Figure:
    """The networks of an audit, and `others`, on one attribute."""
    return _front(_marks(findings, attribute, others), findings.audited.target, attribute, style.WIDTH, 3.6)


@style.rc
def front_chart(marks: Sequence[Mark], target: str, name: str, references: Sequence[Mark] = ()) -> Figure:
    """Many networks, labelled where nothing dominates them; `name` says what leaks.

    `references` are published results, drawn hollow, which neither dominate nor are dominated.
    """
    return _front(marks, target, name, 1.3 * style.WIDTH, 4.6, references)


def describe_trade_off(findings: Findings, attribute: str, others: Sequence[Mark] = ()) -> str:
    marks = _marks(findings, attribute, others)
    on_front = front([(mark.utility.value, mark.excess.value) for mark in marks])
    best = [
        f"{mark.label} {percent(mark.utility.value)} % and {points(mark.excess.value)} points"
        for mark, good in zip(marks, on_front, strict=True)
        if good
    ]
    dominated = len(marks) - len(best)
    rest = f" {dominated} more are dominated." if dominated else ""
    return f"Utility and excess on {attribute} of what nothing dominates: {'; '.join(best)}.{rest}"


def _marks(findings: Findings, attribute: str, others: Sequence[Mark]) -> list[Mark]:
    """The trained networks of an audit, each at its sharpest leak, and the other marks of the same attribute."""
    marks = []
    for network in findings.networks:
        leaks = [leak for leak in network.leaks if leak.attribute == attribute]
        if leaks and network.role != "random":
            excess = sharpest(leaks).headline.excess
            marks.append(Mark(role_label(network), network.role, None, network.utility, excess, attribute))
    return [*marks, *(mark for mark in others if mark.attribute in ("", attribute))]


def _front(
    marks: Sequence[Mark], target: str, name: str, width: float, height: float, references: Sequence[Mark] = ()
) -> Figure:
    """Marks with error bars; those on the front are coloured, labelled by lambda or label, and joined."""
    on_front = front([(mark.utility.value, mark.excess.value) for mark in marks])
    looks = _group_looks(mark.group for mark in marks)
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.axhline(0, color=style.INK, linewidth=1, linestyle=style.DASHES)
    for mark, good in zip(marks, on_front, strict=True):
        if math.isfinite(mark.utility.value) and math.isfinite(mark.excess.value):
            _draw_mark(axes, mark, looks[mark.group], good)
    line = sorted((m.utility.value, m.excess.value) for m, good in zip(marks, on_front, strict=True) if good)
    axes.plot([100 * u for u, _ in line], [100 * e for _, e in line], color=style.INK, linewidth=1, alpha=0.5, zorder=1)
    for group, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, label=style.shorten("this network" if group == "audited" else group))
    if references:
        places = [[100 * mark.utility.value, 100 * mark.excess.value] for mark in references]
        label = style.shorten(references[0].group, 60)
        axes.plot(*zip(*places, strict=True), "D", color=style.QUIET, fillstyle="none", markersize=6, label=label)
    axes.set_xlabel(f"utility: {style.shorten(target)} accuracy, %  (more is better)")
    axes.set_ylabel("excess, points  (less is better)")
    style.set_title(figure, name)
    axes.grid()
    axes.margins(0.16)
    figure.legend(loc="outside lower left", ncols=3, handletextpad=0.4, columnspacing=1.2, borderpad=0)
    return figure


def _draw_mark(axes: Axes, mark: Mark, look: tuple[str, str], good: bool) -> None:
    """A mark at utility and excess, in percent; grey where it is dominated."""
    colour, marker = look
    place = (100 * mark.utility.value, 100 * mark.excess.value)
    axes.errorbar(
        *place,
        xerr=style.error_bar(mark.utility),
        yerr=style.error_bar(mark.excess),
        fmt=marker,
        color=colour if good else style.QUIET,
        alpha=1.0 if good else 0.55,
        markersize=6.5 if good else 5,
        elinewidth=1.0 if good else 0.7,
        zorder=3 if good else 2,
    )
    if good and mark.group not in ROLES:
        note = mark.label if mark.lambda_ is None else f"{mark.lambda_:g}"
        axes.annotate(style.shorten(note, 18), place, (6, -9), textcoords="offset points", fontsize=8)


def _group_looks(groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by group: a role's own, and for others those that no role has."""
    ranked = sorted(dict.fromkeys(groups), key=lambda group: group not in ROLES)
    others = [group for group in ranked if group not in ROLES]
    free = {
        group: (style.GROUP_COLOURS[at % 3], style.MARKERS[at % len(style.MARKERS)]) for at, group in enumerate(others)
    }
    return {group: ROLES[group][:2] if group in ROLES else free[group] for group in ranked}
