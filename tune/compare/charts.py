"""Charts of a comparison: the front as a picture and, by plotly, in the browser; settings as lines; importances."""

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from plotly import graph_objects as go

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.paper import published
from privatenet.audit.report.style import BLUE, GREEN, GROUP_COLOURS, INK, ORANGE, QUIET, RED
from privatenet.audit.report.text import percent, points, with_interval
from privatenet.audit.report.trade_off import Mark, front_chart
from privatenet.tune.compare.candidates import UNPROTECTED, Setting, setting_text, spans_decades
from privatenet.tune.compare.front import DOES_NOT_APPLY, Comparison, Row

PAPER = "paper, RAF-DB (other data and attackers)"

_SYMBOLS = ("diamond", "triangle-down", "cross", "star", "x", "hexagon")
"""As in front.png."""
_GRID = "rgba(138, 143, 152, 0.3)"
_BESIDE = {"xanchor": "left", "xshift": 4, "borderpad": 1, "bgcolor": "#ffffff", "font": {"size": 11}}


def front_picture(comparison: Comparison) -> Figure:
    """The front as a picture, with the numbers of the table and the paper's networks beside it."""
    marks, references = front_marks(comparison), paper_marks(comparison)
    return front_chart(marks, "target", f"Leakage: {comparison.leakage_of}", references)


def describe_front(comparison: Comparison) -> str:
    networks = [
        f"{row.number} ({row.candidate.label}) {percent(row.utility.value)} % and {points(row.leakage.value)} points"
        for row in comparison.rows
        if row.on_front
    ]
    return f"Utility and leakage of what nothing dominates, by number in the table: {'; '.join(networks)}."


def front_marks(comparison: Comparison) -> list[Mark]:
    """The networks, labelled by their number in the table."""
    return [Mark(str(row.number), row.candidate.group, None, row.utility, row.leakage) for row in comparison.rows]


def paper_marks(comparison: Comparison) -> list[Mark]:
    """The paper's private networks that hide an attribute of this comparison, by their unknown adversary's excess."""
    pairs = [comparison.leak] if comparison.leak else comparison.pairs
    attributes = {pair.partition("-")[2] for pair in pairs}
    return [
        Mark(f"{objective} at {tap}, {attribute}", PAPER, None, _published(row.utility), _published(excess), attribute)
        for (objective, tap, attribute), row in published.NETWORKS.items()
        if attribute in attributes and row.utility is not None and row.unknown is not None
        for excess in (row.unknown - published.MAJORITY[attribute],)
    ]


def front_figure(comparison: Comparison) -> go.Figure:
    """Utility against leakage with whiskers; networks on the front are coloured, joined and numbered."""
    figure, looks = go.Figure(), _looks(comparison)
    front = [row for row in comparison.rows if row.on_front]
    edge = sorted((row.utility.value, row.leakage.value) for row in front)
    figure.add_scatter(
        x=[100 * utility for utility, _ in edge], y=[100 * leakage for _, leakage in edge],
        mode="lines", line={"color": QUIET, "width": 1.5}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    groups = {"dominated": [row for row in comparison.rows if not row.on_front]}
    groups |= {group: [row for row in front if row.candidate.group == group] for group in looks}
    for name, rows in groups.items():
        if rows:
            figure.add_trace(_scatter(comparison, rows, name, looks, name != "dominated"))
    references = paper_marks(comparison)
    if references:
        figure.add_scatter(
            x=[100 * mark.utility.value for mark in references], y=[100 * mark.excess.value for mark in references],
            mode="markers", name=PAPER, hoverinfo="text",
            marker={"symbol": "diamond-open", "size": 10, "color": QUIET, "line": {"width": 1.5}},
            hovertext=[
                f"<b>paper: {html.escape(mark.label)}</b><br>utility {percent(mark.utility.value)} %<br>"
                f"unknown adversary {points(mark.excess.value)} points"
                for mark in references
            ],
        )  # fmt: skip
    if knee := comparison.knee:
        figure.add_scatter(
            x=[100 * knee.utility.value], y=[100 * knee.leakage.value], mode="markers", name="knee", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 22, "color": BLUE, "line": {"width": 2}},
        )  # fmt: skip
    figure.update_xaxes(title="utility, %  (more is better)", gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title="leakage, points  (less is better)", gridcolor=_GRID, zerolinecolor=QUIET)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    return _plain(figure)


def parallel(comparison: Comparison) -> go.Figure:
    """A line for every network through its settings and figures; on the figures' axes better is higher.

    Drawn with scatter lines: plotly's parallel coordinates need WebGL, which not every browser has.
    """
    columns = [[comparison.setting(row.candidate, name) for row in comparison.rows] for name in comparison.settings]
    axes: list[tuple[str, Callable[[Any], str], dict[Setting, float]]] = [
        (html.escape(name), setting_text, _heights(values))
        for name, values in zip(comparison.settings, columns, strict=True)
    ]
    leakage = _heights([row.leakage.value for row in comparison.rows])
    axes.append(("<b>utility, %</b>", percent, _heights([row.utility.value for row in comparison.rows])))
    axes.append(("<b>leakage</b>", points, {value: 1 - height for value, height in leakage.items()}))
    figure, looks = go.Figure(), _looks(comparison)
    for row in reversed(comparison.rows):
        settings = [values[row.number - 1] for values in columns]
        apart = 0.05 * ((row.number - 1) / len(comparison.rows) - 0.5)  # or lines of the same words would coincide
        heights = [
            axis[value] + (apart if isinstance(value, str) else 0.0)
            for value, (_, _, axis) in zip([*settings, row.utility.value, row.leakage.value], axes, strict=True)
        ]
        figure.add_scatter(
            x=list(range(len(axes))), y=heights, mode="lines+markers", opacity=0.95 if row.on_front else 0.45,
            hoverinfo="text", hovertext=_hover(comparison, row), showlegend=False, marker={"size": 6},
            line={"color": looks[row.candidate.group][0], "width": 2.6} if row.on_front
            else {"color": QUIET, "width": 1.3},
        )  # fmt: skip
    for at, (_, show, axis) in enumerate(axes):
        for value in _ticks(axis):
            figure.add_annotation(x=at, y=axis[value], text=html.escape(show(value)), showarrow=False, **_BESIDE)
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=[name for name, _, _ in axes], side="top", gridcolor=QUIET,
        zeroline=False, range=[-0.3, len(axes) - 0.35], fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.08, 1.08], fixedrange=True)
    return _plain(figure)


def importance_figure(figure: str, shares: dict[str, Estimate]) -> go.Figure:
    """Bars of one figure's importances, the largest on top, with the span of the resampled networks."""
    values, names = list(shares.values())[::-1], list(shares)[::-1]
    bars = go.Figure()
    bars.add_bar(
        x=[100 * share.value for share in values], y=[html.escape(name) for name in names], orientation="h",
        marker={"color": GREEN if figure == "utility" else RED}, opacity=0.85, width=0.6, hoverinfo="text",
        hovertext=[f"{html.escape(n)}: {with_interval(s, percent, ' %')}" for n, s in zip(names, values, strict=True)],
        error_x=_error_bars(values) | {"color": QUIET, "thickness": 2},
    )  # fmt: skip
    bars.update_xaxes(
        title="share of its variance, %", gridcolor=_GRID, zeroline=False, range=[0, 103], fixedrange=True
    )
    bars.update_yaxes(fixedrange=True, type="category")
    return _plain(bars, top=8)


def _published(percentage: float) -> Estimate:
    """A figure of the paper, which prints no interval."""
    return Estimate(percentage / 100, math.nan, math.nan)


def _heights(values: Sequence[Setting]) -> dict[Setting, float]:
    """Places of values on an axis, from 0 to 1: numbers by size, words evenly, `-` lowest."""
    words = sorted({v for v in values if isinstance(v, str)}, key=lambda word: (word != DOES_NOT_APPLY, word))
    numbers = sorted({value for value in values if not isinstance(value, str)})
    if not numbers or len(words) > 1:
        steps: list[Setting] = [*words, *numbers]
        return {value: place / max(1, len(steps) - 1) for place, value in enumerate(steps)}
    scale, floor = (math.log if spans_decades(numbers) else float), 0.18 * len(words)
    low, span = scale(numbers[0]), scale(numbers[-1]) - scale(numbers[0]) or 1.0
    heights: dict[Setting, float] = {n: floor + (1 - floor) * (scale(n) - low) / span for n in numbers}
    return dict.fromkeys(words, 0.0) | heights


def _ticks(heights: dict[Setting, float]) -> list[Setting]:
    """Values that have room for their names: the ends, and between them what is far enough from the others."""
    ordered = sorted(heights, key=heights.__getitem__)
    ticks = ordered[:1]
    for value in ordered[1:-1]:
        if min(heights[value] - heights[ticks[-1]], heights[ordered[-1]] - heights[value]) >= 0.09:
            ticks.append(value)
    return ticks + ordered[1:][-1:]


def _scatter(
    comparison: Comparison, rows: Sequence[Row], name: str, looks: dict[str, tuple[str, str]], front: bool
) -> go.Scatter:
    """Some of the networks as points with whiskers, those on the front in colour and with their numbers."""
    return go.Scatter(
        x=[100 * row.utility.value for row in rows],
        y=[100 * row.leakage.value for row in rows],
        error_x=_error_bars([row.utility for row in rows]),
        error_y=_error_bars([row.leakage for row in rows]),
        mode="markers+text" if front else "markers",
        text=[f" {row.number}" for row in rows],
        textposition="bottom right",
        hovertext=[_hover(comparison, row) for row in rows],
        hoverinfo="text",
        name=html.escape(name),
        opacity=1.0 if front else 0.6,
        marker={
            "symbol": [looks[row.candidate.group][1] for row in rows],
            "size": 10 if front else 8,
            "color": looks[rows[0].candidate.group][0] if front else QUIET,
        },
    )


def _error_bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Plotly's whiskers, in percent; none where an interval is undefined."""
    up = [100 * max(0.0, e.high - e.value) if math.isfinite(e.high) else 0.0 for e in estimates]
    down = [100 * max(0.0, e.value - e.low) if math.isfinite(e.low) else 0.0 for e in estimates]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 0}


def _hover(comparison: Comparison, row: Row) -> str:
    """All of a network, as plotly's own kind of HTML."""
    lines = [
        f"<b>{row.number} {row.mark}</b> {html.escape(row.candidate.name)}",
        f"<b>utility</b> {with_interval(row.utility, percent, ' %')}",
        f"<b>leakage</b> {with_interval(row.leakage, points, ' points')}",
    ]
    if row.test:
        utility, leakage = row.test
        lines.append(f"<b>test</b> {percent(utility.value)} %, {points(leakage.value)} points")
    settings = {name: row.candidate.settings[name] for name in comparison.settings if name in row.candidate.settings}
    lines += [f"{html.escape(name)} {html.escape(setting_text(value))}" for name, value in settings.items()]
    return "<br>".join([*lines, f"run {html.escape(row.candidate.run_id)}"])


def _looks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Colour and symbol by group."""
    groups = list(dict.fromkeys(row.candidate.group for row in comparison.rows if row.candidate.private))
    looks = {g: (GROUP_COLOURS[at % len(GROUP_COLOURS)], _SYMBOLS[at % len(_SYMBOLS)]) for at, g in enumerate(groups)}
    return looks | {UNPROTECTED: (ORANGE, "square")}


def _plain(figure: go.Figure, top: int = 34) -> go.Figure:
    """Transparent and with small margins, so that page and telephone decide."""
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": top, "b": 8}, font={"family": "inherit", "size": 13}, hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": BLUE},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": QUIET, "align": "left", "font": {"color": INK, "size": 12}},
    )  # fmt: skip
    figure.update_xaxes(automargin=True, title_font={"size": 13})
    figure.update_yaxes(automargin=True, title_font={"size": 13})
    return figure
