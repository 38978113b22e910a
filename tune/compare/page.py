"""A comparison as one page of interactive charts, which needs nothing but a browser."""

from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from privatenet.audit.report.frame import render
from privatenet.audit.report.text import DASH, count, interval, percent, points
from privatenet.data_shards.files import replacing
from privatenet.data_shards.uri import scrub
from privatenet.tune.compare.candidates import setting_text
from privatenet.tune.compare.charts import front_figure, importance_figure, parallel
from privatenet.tune.compare.front import DOES_NOT_APPLY, LEAKAGE, ORDER, Comparison, Row
from privatenet.tune.compare.importance import importance

_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  # by default there is one that uploads
    "toImageButtonOptions": {"scale": 2},
}


def write_page(comparison: Comparison, path: Path, uri: str = "") -> None:
    """Write the page as one file. `uri` is the tracking store, shown without name and password."""
    shares, sentence = importance(comparison)
    figures = {"chart-front": (front_figure(comparison), 520), "chart-parallel": (parallel(comparison), 470)}
    for name, by_setting in shares.items():
        figures[f"chart-{name}"] = (importance_figure(name, by_setting), 84 + 34 * len(by_setting))
    text = render(
        Path(__file__).with_name("page.html"),
        title="Comparison: utility against leakage",
        kind="Comparison",
        package=version("privatenet"),
        comparison=comparison,
        networks=count(len(comparison.rows), "network"),
        rows=[(row, _settings(comparison, row), _metrics(row)) for row in comparison.rows],
        tested=any(row.test for row in comparison.rows),
        charts={name: _element(figure, name, height) for name, (figure, height) in figures.items()},
        importance=sentence,
        leakage=LEAKAGE,
        order=ORDER,
        uri=scrub(uri),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )
    with replacing(path) as stream:
        stream.write(text.encode())


def _element(figure: go.Figure, name: str, height: int) -> Markup:
    """A figure's piece of the page; only the front has buttons, there is nothing to zoom into in the others."""
    config = _CONFIG | {"displayModeBar": name == "chart-front"}
    return Markup(  # noqa: S704 (plotly escapes what could end its script)
        figure.to_html(config, include_plotlyjs=False, full_html=False, default_height=f"{height}px", div_id=name)
    )


def _settings(comparison: Comparison, row: Row) -> list[str]:
    values = [comparison.setting(row.candidate, name) for name in comparison.settings]
    return [DASH if value == DOES_NOT_APPLY else setting_text(value) for value in values]


def _metrics(row: Row) -> list[tuple[str, str]]:
    """Values and their intervals: utility and leakage, then those of the test split, if measured."""
    pairs = [(row.utility, percent), (row.leakage, points)]
    pairs += [] if row.test is None else zip(row.test, (percent, points), strict=True)
    return [(show(estimate.value), interval(estimate, show)) for estimate, show in pairs]
