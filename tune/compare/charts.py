"""A comparison as one page of interactive charts, which needs nothing but a browser."""

import html
import math
import random
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import optuna
from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.report.charts import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, RED
from privatenet.audit.report.text import DASH, interval, percent, points, whole
from privatenet.data_shards.files import replacing
from privatenet.data_shards.uri import scrub
from privatenet.tune.compare.candidates import (
    LEAKAGE,
    NONE,
    ORDER,
    PAPER,
    UNPROTECTED,
    Candidate,
    Comparison,
    described,
    references,
    shown,
)

FEWEST = 4
"""Finished trials from which on importance is worked out."""

RESAMPLES = 20

_COLOURS = (GREEN, PURPLE, RED)
_SYMBOLS = ("diamond", "triangle-down", "cross", "star", "x", "hexagon")
"""As in front.png."""

_GRID = "rgba(138, 143, 152, 0.3)"
_BESIDE = {"xanchor": "left", "xshift": 4, "borderpad": 1, "bgcolor": "#ffffff", "font": {"size": 11}}
_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  # by default there is one that uploads
    "toImageButtonOptions": {"scale": 2},
}


def write_page(found: Comparison, path: Path, uri: str = "") -> None:
    """Write the page, with all it needs in it. `uri` is the tracking store, shown without name and password."""
    measured, said = importance(found.candidates)
    drawings = {"chart-front": (front_figure(found), 520), "chart-parallel": (parallel(found), 470)}
    for name, shares in measured.items():
        drawings[f"chart-{name}"] = (importance_figure(name, shares), 84 + 34 * len(shares))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(_PAGE).render(
        found=found,
        rows=[_row(found, place) for place in range(len(found.candidates))],
        names=list(found.candidates[0].settings),
        tested=any(candidate.tested for candidate in found.candidates),
        charts={name: _element(figure, name, height) for name, (figure, height) in drawings.items()},
        importance=said,
        leakage=LEAKAGE,
        order=ORDER,
        described=described,
        whole=whole,
        percent=percent,
        points=points,
        uri=scrub(uri),
        package=version("privatenet"),
        plotly=Markup(get_plotlyjs()),
    )
    with replacing(path) as stream:
        stream.write(text.encode())


def front_figure(found: Comparison) -> go.Figure:
    """Utility against leakage with whiskers; what nothing dominates is coloured, joined and has its number."""
    figure, looks = go.Figure(), _looks(found)
    good = [place for place, on_it in enumerate(found.best) if on_it]
    edge = sorted((found.candidates[place].utility.value, found.candidates[place].leakage.value) for place in good)
    figure.add_scatter(
        x=[100 * utility for utility, _ in edge], y=[100 * leakage for _, leakage in edge],
        mode="lines", line={"color": QUIET, "width": 1.5}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    others = [place for place, on_it in enumerate(found.best) if not on_it]
    parts = {"dominated": others} | {g: [i for i in good if found.candidates[i].group == g] for g in looks}
    for name, places in parts.items():
        if places:
            figure.add_trace(_scatter(found, places, name, looks, name != "dominated"))
    beside = references(found)
    if beside:
        figure.add_scatter(
            x=[100 * point.utility.value for point in beside], y=[100 * point.excess.value for point in beside],
            mode="markers", name=PAPER, hoverinfo="text",
            marker={"symbol": "diamond-open", "size": 10, "color": QUIET, "line": {"width": 1.5}},
            hovertext=[
                f"<b>paper: {html.escape(point.label)}</b><br>utility {percent(point.utility.value)} %<br>"
                f"unknown adversary {points(point.excess.value)} points"
                for point in beside
            ],
        )  # fmt: skip
    best = found.candidates[found.knee]
    figure.add_scatter(
        x=[100 * best.utility.value], y=[100 * best.leakage.value], mode="markers", name="knee", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 22, "color": BLUE, "line": {"width": 2}},
    )  # fmt: skip
    figure.update_xaxes(title="utility, %  (more is better)", gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title="leakage, points  (less is better)", gridcolor=_GRID, zerolinecolor=QUIET)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    return _plain(figure)


def parallel(found: Comparison) -> go.Figure:
    """A line for every network through its settings and figures; on the figures' axes better is higher.

    Drawn as lines of its own: plotly's parallel coordinates need WebGL, which not every browser has.
    """
    axes: list[tuple[str, Callable[[Any], str], dict[str | float, float]]] = [
        (html.escape(name), shown, _heights([candidate.settings[name] for candidate in found.candidates]))
        for name in found.candidates[0].settings
    ]
    leakage = _heights([candidate.leakage.value for candidate in found.candidates])
    axes.append(("<b>utility, %</b>", percent, _heights([c.utility.value for c in found.candidates])))
    axes.append(("<b>leakage</b>", points, {value: 1 - height for value, height in leakage.items()}))
    figure, looks = go.Figure(), _looks(found)
    for place in reversed(range(len(found.candidates))):
        candidate, good = found.candidates[place], found.best[place]
        values = [*candidate.settings.values(), candidate.utility.value, candidate.leakage.value]
        apart = 0.05 * (place / len(found.candidates) - 0.5)  # or lines of the same words would lie on each other
        heights = [
            axis[value] + (apart if isinstance(value, str) else 0.0)
            for value, (_, _, axis) in zip(values, axes, strict=True)
        ]
        figure.add_scatter(
            x=list(range(len(axes))), y=heights, mode="lines+markers", opacity=0.95 if good else 0.45,
            hoverinfo="text", hovertext=_hover(found, place), showlegend=False, marker={"size": 6},
            line={"color": looks[candidate.group][0] if good else QUIET, "width": 2.6 if good else 1.3},
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


def importance(found: Sequence[Candidate]) -> tuple[dict[str, dict[str, Estimate]], str]:
    """How much of the variance of utility and of leakage each setting accounts for (fANOVA, shares of 1), and how sure.

    Intervals span what resampled trials give. The first is empty where that cannot be said; the second is a sentence.
    """
    trials = [candidate for candidate in found if candidate.group != UNPROTECTED]
    names = [name for name in found[0].settings if len({trial.settings[name] for trial in trials}) > 1]
    if len(trials) < FEWEST:
        return {}, f"Importance needs more trials: {len(trials)} finished, at least {FEWEST} are needed."
    figures = {
        "utility": [trial.utility.value for trial in trials],
        "leakage": [trial.leakage.value for trial in trials],
    }
    varied = {name: values for name, values in figures.items() if len(set(values)) > 1}
    if not names or not varied:
        return {}, f"Importance needs more trials: over the {len(trials)} finished ones nothing varies."
    kinds = {name: _distribution([trial.settings[name] for trial in trials]) for name in names}
    params = [{name: trial.settings[name] for name in names} for trial in trials]
    chance = random.Random(0)
    draws = [chance.choices(range(len(trials)), k=len(trials)) for _ in range(RESAMPLES)]
    found_shares = {}
    for figure, values in varied.items():
        whole_set = _shares(params, values, kinds, trees=64)
        again = [
            _shares([params[i] for i in draw], [values[i] for i in draw], kinds, trees=16)
            for draw in draws
            if len({values[i] for i in draw}) > 1
        ]
        found_shares[figure] = {
            name: Estimate(share, min(some[name] for some in again), max(some[name] for some in again))
            for name, share in sorted(whole_set.items(), key=lambda item: -item[1])
        }
    return found_shares, (
        f"Shares of the variance over {len(trials)} finished trials (fANOVA); whiskers span what {RESAMPLES} "
        "resamplings of them give. Where they are long, the order means little."
    )


def importance_figure(figure: str, shares: dict[str, Estimate]) -> go.Figure:
    """Bars of one figure's importances, the largest on top, with the span of the resampled trials."""
    values, names = list(shares.values())[::-1], list(shares)[::-1]
    drawn = go.Figure()
    drawn.add_bar(
        x=[100 * share.value for share in values], y=[html.escape(name) for name in names], orientation="h",
        marker={"color": GREEN if figure == "utility" else RED}, opacity=0.85, width=0.6, hoverinfo="text",
        hovertext=[f"{html.escape(n)}: {whole(s, percent, ' %')}" for n, s in zip(names, values, strict=True)],
        error_x=_sides(values) | {"color": QUIET, "thickness": 2},
    )  # fmt: skip
    drawn.update_xaxes(
        title="share of its variance, %", gridcolor=_GRID, zeroline=False, range=[0, 103], fixedrange=True
    )
    drawn.update_yaxes(fixedrange=True, type="category")
    return _plain(drawn, top=8)


def _shares(
    params: Sequence[dict[str, str | float]], values: Sequence[float], kinds: dict[str, BaseDistribution], trees: int
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=own, distributions=kinds, value=value)
            for own, value in zip(params, values, strict=True)
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=trees, seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _distribution(values: Sequence[str | float]) -> BaseDistribution:
    """What a setting could have been; one that does not always apply is a choice, `-` among the others."""
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted(set(values), key=str))
    return FloatDistribution(min(numbers), max(numbers), log=_wide(numbers))


def _wide(numbers: Sequence[float]) -> bool:
    """Whether numbers span decades, as learning rates do."""
    return min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def _heights(values: Sequence[str | float]) -> dict[str | float, float]:
    """Where the values of an axis lie on it, from 0 to 1: numbers by size, words evenly, `-` lowest."""
    words = sorted({value for value in values if isinstance(value, str)}, key=lambda word: (word != NONE, word))
    numbers = sorted({value for value in values if isinstance(value, float)})
    if not numbers or len(words) > 1:
        every: list[str | float] = [*words, *numbers]
        return {value: place / max(1, len(every) - 1) for place, value in enumerate(every)}
    scale, floor = (math.log if _wide(numbers) else float), 0.18 * len(words)
    low, span = scale(numbers[0]), scale(numbers[-1]) - scale(numbers[0]) or 1.0
    heights: dict[str | float, float] = {
        number: floor + (1 - floor) * (scale(number) - low) / span for number in numbers
    }
    return dict.fromkeys(words, 0.0) | heights


def _ticks(heights: dict[str | float, float]) -> list[str | float]:
    """Values that have room for their names: the ends, and between them what is far enough from the others."""
    ordered = sorted(heights, key=heights.__getitem__)
    kept = ordered[:1]
    for value in ordered[1:-1]:
        if min(heights[value] - heights[kept[-1]], heights[ordered[-1]] - heights[value]) >= 0.09:
            kept.append(value)
    return kept + ordered[1:][-1:]


def _scatter(
    found: Comparison, places: Sequence[int], name: str, looks: dict[str, tuple[str, str]], good: bool
) -> go.Scatter:
    """Some of the candidates as points with whiskers, those on the front in colour and with their numbers."""
    part = [found.candidates[place] for place in places]
    look = [looks[candidate.group] for candidate in part]
    return go.Scatter(
        x=[100 * candidate.utility.value for candidate in part],
        y=[100 * candidate.leakage.value for candidate in part],
        error_x=_sides([candidate.utility for candidate in part]),
        error_y=_sides([candidate.leakage for candidate in part]),
        mode="markers+text" if good else "markers",
        text=[f" {place + 1}" for place in places],
        textposition="bottom right",
        hovertext=[_hover(found, place) for place in places],
        hoverinfo="text",
        name=html.escape(name),
        opacity=1.0 if good else 0.6,
        marker={
            "symbol": [symbol for _, symbol in look],
            "size": 10 if good else 8,
            "color": look[0][0] if good else QUIET,
        },
    )


def _sides(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Plotly's whiskers, in percent; none where an interval is undefined."""
    up = [100 * max(0.0, e.high - e.value) if math.isfinite(e.high) else 0.0 for e in estimates]
    down = [100 * max(0.0, e.value - e.low) if math.isfinite(e.low) else 0.0 for e in estimates]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 0}


def _hover(found: Comparison, place: int) -> str:
    """All of a network, as plotly's own kind of HTML."""
    candidate = found.candidates[place]
    lines = [
        f"<b>{place + 1} {found.mark(place)}</b> {html.escape(candidate.name)}",
        f"<b>utility</b> {whole(candidate.utility, percent, ' %')}",
        f"<b>leakage</b> {whole(candidate.leakage, points, ' points')}",
    ]
    if candidate.tested:
        utility, leakage = candidate.tested
        lines.append(f"<b>test</b> {percent(utility.value)} %, {points(leakage.value)} points")
    lines += [f"{html.escape(n)} {html.escape(shown(v))}" for n, v in candidate.settings.items() if v != NONE]
    return "<br>".join([*lines, f"run {html.escape(candidate.run_id)}"])


def _looks(found: Comparison) -> dict[str, tuple[str, str]]:
    """Colour and symbol by group."""
    groups = [g for g in dict.fromkeys(candidate.group for candidate in found.candidates) if g != UNPROTECTED]
    looks = {group: (_COLOURS[at % len(_COLOURS)], _SYMBOLS[at % len(_SYMBOLS)]) for at, group in enumerate(groups)}
    return looks | {UNPROTECTED: (ORANGE, "square")}


def _plain(figure: go.Figure, top: int = 34) -> go.Figure:
    """Without a ground of its own and with little room around, so that page and telephone decide."""
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": top, "b": 8}, font={"family": "inherit", "size": 13}, hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": QUIET, "activecolor": BLUE},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": QUIET, "align": "left", "font": {"color": INK, "size": 12}},
    )  # fmt: skip
    figure.update_xaxes(automargin=True, title_font={"size": 13})
    figure.update_yaxes(automargin=True, title_font={"size": 13})
    return figure


def _element(figure: go.Figure, name: str, height: int) -> Markup:
    """A figure's own piece of the page; only the front has buttons, there is nothing to zoom into in the others."""
    config = _CONFIG | {"displayModeBar": name == "chart-front"}
    drawn = figure.to_html(config, include_plotlyjs=False, full_html=False, default_height=f"{height}px", div_id=name)
    return Markup(drawn)


def _row(found: Comparison, place: int) -> dict[str, Any]:
    """A network's row of the table."""
    candidate = found.candidates[place]
    tested = [] if candidate.tested is None else list(zip(candidate.tested, (percent, points), strict=True))
    figures = [(candidate.utility, percent), (candidate.leakage, points), *tested]
    return {
        "place": place + 1,
        "mark": found.mark(place),
        "candidate": candidate,
        "settings": [DASH if value == NONE else shown(value) for value in candidate.settings.values()],
        "figures": [(show(estimate.value), interval(estimate, show)) for estimate, show in figures],
    }


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="privatenet {{ package }}">
<link rel="icon" href="data:,">
<title>Comparison: utility against leakage</title>
<style>
:root { --paper: #ffffff; --page: #f6f7f9; --ink: #1b1f24; --soft: #5a626d; --line: #dfe3e8; --accent: #00639c; \
--tint: #eef2f6; --shade: #1b1f2433; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191d23; --page: #12151a; --ink: #e8ebef; --soft: #a3acb8; --line: #333a44; --accent: #6cb8ea; \
--tint: #232932; --shade: #000000aa; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere; font: 16px/1.55 system-ui, \
-apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.75rem; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; \
margin: .2rem 0 .6rem; text-wrap: balance; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 0 0 .35rem; }
h3 { font-size: 1.05rem; margin: 1.25rem 0 .25rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
.over { color: var(--accent); font-weight: 650; font-size: .85rem; margin: 0; }
.soft, caption { color: var(--soft); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 14px; padding: 1.5rem; \
margin: 1.25rem 0; min-width: 0; }
.facts { display: flex; flex-wrap: wrap; gap: .9rem 2.75rem; margin: 1.25rem 0 0; padding-top: 1.1rem; \
border-top: 1px solid var(--line); }
.facts > div { max-width: 24rem; }
.facts dt { font-size: .8rem; color: var(--soft); }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts .ends { font-weight: 400; }
.scroll { overflow-x: auto; max-width: 100%; background: linear-gradient(to right, var(--paper) 30%, transparent) \
left / 2rem 100% no-repeat local, linear-gradient(to left, var(--paper) 30%, transparent) right / 2rem 100% no-repeat \
local, linear-gradient(to right, var(--shade), transparent) left / .8rem 100% no-repeat scroll, \
linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll; }
.scroll > .wide { min-width: var(--least); }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .5rem 2rem; }
.pair > div { min-width: 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { text-align: left; padding: 0 0 .5rem; font-size: .85rem; }
th, td { padding: .45rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); \
overflow-wrap: normal; white-space: nowrap; }
thead th { font-size: .78rem; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody tr { color: var(--soft); }
tbody tr.front { color: var(--ink); }
tr.knee > * { background: var(--tint); }
.front .mark { color: var(--accent); font-weight: 700; }
.num { text-align: right; }
.ends { display: block; font-size: .76rem; color: var(--soft); }
code { font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
ul { padding-left: 1.2rem; margin: .5rem 0 0; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 3rem; }
.plotly-graph-div { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", \
"DejaVu Sans", sans-serif; }
.main-svg .infolayer text, .main-svg .xtick text, .main-svg .ytick text, .main-svg .textpoint text, \
.main-svg .annotation text { fill: var(--ink) !important; font-family: inherit !important; }
.main-svg .annotation .bg { fill: var(--paper) !important; fill-opacity: .8 !important; }
.main-svg .errorbars path { opacity: .7; }
@media (max-width: 40rem) {
  header, main, footer { padding-left: .9rem; padding-right: .9rem; }
  header { padding-top: 1.75rem; }
  section { padding: 1.1rem .9rem; border-radius: 10px; }
}
</style>
<script>{{ plotly }}</script>
</head>
<body>
<header>
<p class="over">Comparison</p>
<h1>What {{ found.candidates | length }} networks can do and what they give away</h1>
<p>{{ leakage }}</p>
<p class="soft">Here it is of {{ found.what }}, on the {{ found.split }} split; intervals hold at 95 %.</p>
</header>
<main>
<section aria-labelledby="h-front">
<h2 id="h-front">Utility against leakage</h2>
<p class="soft">To the right is more useful, further down more private. What nothing dominates is coloured, joined and \
numbered as in the table; the ring is the knee, where giving up more utility starts to buy less. Point at a network \
to read its settings.</p>
{{ charts["chart-front"] }}
<dl class="facts">
<div><dt>networks</dt><dd>{{ found.candidates | length }}</dd></div>
<div><dt>on the front</dt><dd>{{ found.best | sum }}</dd></div>
<div><dt>knee</dt><dd>{{ found.knee + 1 }} <span class="ends">{{ described(found.candidates[found.knee]) }}</span></dd>\
</div>
{% if found.failed %}<div><dt>failed</dt><dd>{{ found.failed | length }}</dd></div>{% endif %}
</dl>
</section>

<section aria-labelledby="h-table">
<h2 id="h-table">In figures</h2>
<p class="soft">* is on the front, K its knee. {{ order }}</p>
{% for note in found.notes %}<p>{{ note }}</p>{% endfor %}
<div class="scroll" role="region" tabindex="0" aria-label="Networks">
<table>
<thead><tr><th scope="col" class="num">no.</th><th scope="col"></th><th scope="col" class="num">utility, %</th>\
<th scope="col" class="num">leakage, points</th>{% if tested %}<th scope="col" class="num">test utility, %</th>\
<th scope="col" class="num">test leakage</th>{% endif %}{% for name in names %}<th scope="col">{{ name }}</th>\
{% endfor %}<th scope="col">run</th></tr></thead>
<tbody>
{% for row in rows %}
<tr class="{{ "front" if "*" in row.mark }}{{ " knee" if "K" in row.mark }}"><th scope="row" class="num">\
{{ row.place }}</th><td class="mark">{{ row.mark }}</td>
{%- for value, ends in row.figures %}<td class="num">{{ value }} <span class="ends">{{ ends }}</span></td>{% endfor %}
{%- if tested and row.figures | length == 2 %}<td></td><td></td>{% endif %}
{%- for value in row.settings %}<td>{{ value }}</td>{% endfor %}
<td>{{ row.candidate.name }} <code class="ends">{{ row.candidate.run_id }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% if found.failed %}
<h3>Failed</h3>
<ul>{% for candidate in found.failed %}\
<li>{{ candidate.name }} <span class="soft">({{ described(candidate) }})</span>: {{
candidate.reason }}</li>{% endfor %}</ul>
{% endif %}
</section>

<section aria-labelledby="h-parallel">
<h2 id="h-parallel">Settings and what they led to</h2>
<p class="soft">One line a network, those on the front in colour. On the last two axes better is higher.</p>
<div class="scroll" role="region" tabindex="0" aria-label="Settings and figures as lines">\
<div class="wide" style="--least: {{ 5.5 * (names | length + 2) }}rem">{{ charts["chart-parallel"] }}</div></div>
</section>

<section aria-labelledby="h-importance">
<h2 id="h-importance">Which settings matter</h2>
<p class="soft">{{ importance }}</p>
<div class="pair">{% for figure in ("utility", "leakage") if "chart-" ~ figure in charts %}<div><h3>For {{ figure }}\
</h3>{{ charts["chart-" ~ figure] }}</div>{% endfor %}</div>
</section>
</main>
<footer><p>{% if uri %}Runs are in <code>{{ uri }}</code>. {% endif %}All figures in full are in front.csv.</p></footer>
<script>
if (matchMedia("(pointer: coarse)").matches)
  for (const chart of document.querySelectorAll(".plotly-graph-div")) Plotly.relayout(chart, {dragmode: false});
</script>
</body>
</html>
"""
